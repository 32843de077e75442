"""What is wrong with a data set, said in words its owner can act on.

A rule's number is stable: it is what a user searches for. COCO-* concern an annotation file, IMG-* one picture,
DIR-* the place and layout of the files. E refuses, W is accepted and said (`index.warnings`).
"""

RULES = {
    "COCO-E01": "the file is not complete JSON",
    "COCO-E03": "the top level is not an object with images, annotations and categories",
    "COCO-E04": "a box holds a value that is not a finite number",
    "COCO-E05": "no categories",
    "COCO-E06": "no annotations key",
    "COCO-E07": "two images have the same id",
    "COCO-E08": "two annotations have the same id",
    "COCO-W10": "two categories have the same name",
    "COCO-E11": "an annotation belongs to no listed image",
    "COCO-E12": "an annotation belongs to no listed category",
    "COCO-E14": "a box is not four numbers",
    "COCO-W15": "a box has no width or no height; it is dropped",
    "COCO-E16": "a box has a negative width or height",
    "COCO-E17": "many boxes leave their image, as x1 y1 x2 y2 read as x y width height do",
    "COCO-W17": "a box leaves its image; it is clipped",
    "COCO-E19": "an annotation has no bbox",
    "COCO-W20": "area is missing; width x height is taken",
    "COCO-W21": "iscrowd is missing; 0 is taken",
    "COCO-E22": "the picture has another size than the annotation file says",
    "COCO-W23": "width or height is missing; the picture's header is read",
    "COCO-E24": "a file name leaves the image folder",
    "COCO-E25": "a file name is absolute",
    "COCO-E26": "no annotations in a training split",
    "COCO-W26": "no annotations in a split that is only evaluated",
    "COCO-E27": "a category id that data.class_ids=raw cannot use",
    "COCO-W27": "category ids do not run from 1 without gaps; they are mapped",
    "COCO-E28": "a file name is a URL",
    "COCO-E29": "a record lacks a field, or the field has the wrong type",
    "COCO-E30": "none of the pictures tried is in the image folder",
    "COCO-E31": "two categories have the same id",
    "COCO-W32": "a category has no name; its id is taken",
    "COCO-E33": "no training image is usable",
    "IMG-E01": "no such file, or it cannot be read",
    "IMG-E02": "the file is empty",
    "IMG-E03": "the file is no picture",
    "IMG-E04": "the picture is cut short or damaged",
    "IMG-E05": "the picture has too many pixels",
    "IMG-E06": "a kind of pixels that has no meaning as 8-bit RGB",
    "IMG-E07": "too many unreadable pictures",
    "DIR-E01": "a path of the config does not exist",
    "DIR-E02": "a class folder without pictures",
    "DIR-E03": "no class folders",
    "DIR-E04": "the validation classes differ from the training classes",
    "DIR-W05": "files that are no pictures are left out",
    "DIR-E06": "the folder exists and is not raydet's to replace",
}


class DataError(ValueError):
    """The data cannot be used as they are: where, which record, what, the rule's name, and what to do about it."""

    def __init__(
        self,
        what: str,
        *,
        rule: str,
        file: object = None,
        record: str | None = None,
        hint: str | None = None,
    ) -> None:
        self.what, self.rule, self.file, self.record, self.hint = what, rule, file, record, hint
        place = "".join(f"{one_line(str(part))}: " for part in (file, record) if part is not None)
        super().__init__(f"{place}{one_line(what)} ({rule})" + (f"\n{one_line(hint)}" if hint else ""))

    def __reduce__(self) -> tuple[object, ...]:
        # It travels from loader processes and Ray workers; Exception's own way would lose the keywords.
        keywords = {"rule": self.rule, "file": self.file, "record": self.record, "hint": self.hint}
        return _rebuilt, (self.what, keywords)


def _rebuilt(what: str, keywords: dict[str, object]) -> DataError:
    return DataError(what, **keywords)  # type: ignore[arg-type]


def one_line(text: str, longest: int = 400) -> str:
    """`text` with line breaks and control characters spelt out and its middle cut, fit for a message."""
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text if len(text) <= longest else f"{text[: longest // 2]}...{text[-longest // 2 :]}"
