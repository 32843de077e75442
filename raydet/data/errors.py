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
    "COCO-E34": "all boxes lie within one pixel, as those normalised to 0..1 do",
    "COCO-W35": "two images have the same file name",
    "COCO-W36": "two file names differ in upper and lower case, or in their Unicode form, only",
    "COCO-W37": "an image has the same box of the same class twice",
    "COCO-E38": "a file name has backslashes",
    "COCO-W39": "a file name begins or ends with white space",
    "COCO-E40": "a key stands twice in one object",
    "COCO-W41": "all boxes are at most one pixel wide and high",
    "COCO-W42": "a box is narrower or lower than a pixel",
    "COCO-W43": "a run-length code is for a picture of another size",
    "COCO-W44": "most images have no annotations",
    "COCO-W45": "a class has no box",
    "COCO-W46": "area is 0, or larger than the box",
    "COCO-W47": "iscrowd is written as true, false or a decimal; it is read as 0 or 1",
    "COCO-W48": "an annotation has the id 0, which pycocotools takes for no match",
    "COCO-E49": "an annotation's category is faulty itself",
    "COCO-W50": "two category names differ in case, spaces or hyphens only",
    "IMG-E01": "no such file, or it cannot be read",
    "IMG-E02": "the file is empty",
    "IMG-E03": "the file is no picture",
    "IMG-E04": "the picture is cut short or damaged",
    "IMG-E05": "the picture has too many pixels",
    "IMG-E06": "a kind of pixels that has no meaning as 8-bit RGB",
    "IMG-E07": "too many unreadable pictures",
    "IMG-W08": "the file's name says another format than it has",
    "IMG-W09": "the picture is in CMYK",
    "IMG-W10": "the picture has 16 bits a channel",
    "IMG-W11": "EXIF says that the picture is to be turned",
    "IMG-W12": "the file has several frames; the first is used",
    "IMG-W13": "the picture is very small",
    "IMG-W14": "the same file is there more than once",
    "IMG-W15": "the same file is in two splits",
    "IMG-W16": "nearly the same picture is there more than once",
    "IMG-W17": "nearly the same picture is in two splits",
    "IMG-E18": "a JPEG of so many scans that it would take minutes to decode",
    "IMG-W19": "a JPEG that ends in zeros, as after a failed download",
    "DIR-E01": "a path of the config does not exist",
    "DIR-E02": "a class folder without pictures",
    "DIR-E03": "no class folders",
    "DIR-E04": "the validation classes differ from the training classes",
    "DIR-W05": "files that are no pictures are left out",
    "DIR-W08": "pictures in no class folder are left out",
    "DIR-E06": "the folder exists and is not raydet's to replace",
    "DIR-W07": "pictures lie in the folder that the annotations do not name",
    "YOLO-E01": "the data set's YAML cannot be read as plain data",
    "YOLO-E02": "there is no data.yaml, or it is not clear which one is meant",
    "YOLO-E03": "the YAML has no usable names of classes",
    "YOLO-E04": "nc is not the number of names",
    "YOLO-W05": "two classes have the same name",
    "YOLO-E06": "the YAML has no such split, or it holds no picture",
    "YOLO-E07": "a name in the YAML or in a list leads out of data.root",
    "YOLO-W08": "a folder in the YAML lies elsewhere; the one in data.root is taken",
    "YOLO-E09": "a label row has the wrong number of columns",
    "YOLO-E10": "a label row holds something that is not a finite number",
    "YOLO-E11": "a label row has a class that is not in names",
    "YOLO-E12": "a label row has coordinates that are not from 0 to 1",
    "YOLO-E13": "a label row has a negative width or height",
    "YOLO-W14": "a box has no width or no height; it is dropped",
    "YOLO-W15": "a label row is there twice; it is taken once",
    "YOLO-W16": "a label row is a polygon; the box around it is taken",
    "YOLO-W17": "a picture has no label file, or one without rows",
    "YOLO-W18": "a label file has no picture",
    "YOLO-E19": "no picture of the split has a box",
    "YOLO-E20": "a label file cannot be read",
    "YOLO-E21": "a listed picture is not there",
    "YOLO-E22": "many boxes leave their picture, as corners read as centre and extent do",
    "YOLO-W22": "a box leaves its picture; it is clipped",
    "PARQUET-E01": "the file is no parquet, or is damaged",
    "PARQUET-E02": "a column that is needed is not there, or has the wrong type",
    "PARQUET-E03": "a row has no picture",
    "PARQUET-E04": "a row's boxes and labels do not fit each other",
    "PARQUET-E05": "a box is not four finite numbers, or has a negative extent",
    "PARQUET-W06": "a box has no width or no height; it is dropped",
    "PARQUET-E07": "a label that is no class",
    "PARQUET-E08": "many boxes leave their picture, as another bbox_format does",
    "PARQUET-W08": "a box leaves its picture; it is clipped",
    "PARQUET-E09": "two rows have the same image_id",
    "PARQUET-W10": "row groups so large that reading single rows is slow",
    "PARQUET-E11": "the split holds no row, or no box",
    "PARQUET-W12": "the names of the classes are taken from the labels",
    "REMOTE-E01": "an address of a kind that raydet does not read",
    "REMOTE-E02": "an address that holds credentials",
    "REMOTE-E03": "an address that is not complete, or has an unknown option",
    "REMOTE-E04": "the store refuses access",
    "REMOTE-E05": "no such bucket",
    "REMOTE-E06": "no such file or folder in the bucket",
    "REMOTE-E07": "the store does not answer, or breaks off",
    "REMOTE-E08": "a file of the store is too large, or does not fit the disk",
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
        self.faults: object = None
        """All that was found with it (raydet.data.faults.Faults); None: only this. Stays in its process."""
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
