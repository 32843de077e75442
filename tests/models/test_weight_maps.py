import torch

from raydet.models.weight_maps import to_our_names


def test_heads_toggled_to_levels_first_are_told_apart_where_levels_and_repeats_agree():
    # D6 and D7: five levels, five repeats. Only the missing ".bn" tells; with it the file is in the usual order.
    ours = {f"class_net.bn_rep.{r}.{level}.bn.weight": torch.tensor([r, level]) for r in range(5) for level in range(5)}
    toggled = {f"class_net.bn_rep.{level}.{r}.weight": torch.tensor([r, level]) for r in range(5) for level in range(5)}
    for given in (ours, toggled):
        mapped = to_our_names(given, "effdet", "detector", (), 5, 90).tensors
        assert mapped.keys() == ours.keys() and all(torch.equal(mapped[key], x) for key, x in ours.items())


def test_a_file_with_96_real_classes_keeps_them():
    given = {"class_net.predict.conv_pw.bias": torch.arange(864.0)}
    assert to_our_names(given, "nvidia detection", "detector", (), 5, 96).tensors == given
    cut = to_our_names(given, "nvidia detection", "detector", (), 5, 80).tensors["class_net.predict.conv_pw.bias"]
    assert len(cut) == 810 and cut[90] == 96
