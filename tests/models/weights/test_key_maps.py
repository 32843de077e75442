import torch

from raydet.models.weights.key_maps import to_our_names


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


def test_every_quantizer_of_nvidias_classifier_has_its_name_here():
    # stage 0 numbers its batch normalisations and convolutions otherwise; NGC's files say layer1 for layers.0
    block = {
        "depsep.conv._input_quantizer": "conv_dw.input_quantizer",
        "depsep.conv._weight_quantizer": "conv_dw.weight_quantizer",
        "se.pooling._input_quantizer": "se.pool.input_quantizer",
        "se.squeeze._weight_quantizer": "se.conv_reduce.weight_quantizer",
        "se.expand._input_quantizer": "se.conv_expand.input_quantizer",
        "se.mul_a_quantizer": "se.multiply.gate_quantizer",
        "se.mul_b_quantizer": "se.multiply.features_quantizer",
        "residual_quantizer": "add.residual_quantizer",
    }
    later = block | {
        "expand.conv._input_quantizer": "conv_pw.input_quantizer",
        "proj.conv._weight_quantizer": "conv_pwl.weight_quantizer",
    }
    first = block | {"proj.conv._weight_quantizer": "conv_pw.weight_quantizer"}
    names = {
        "stem.conv._input_quantizer": "conv_stem.input_quantizer",
        "features.conv._weight_quantizer": "conv_head.weight_quantizer",
        "classifier.pooling._input_quantizer": "pool.input_quantizer",
        "classifier.fc._weight_quantizer": "classifier.weight_quantizer",
        **{f"layers.0.block1.{theirs}": f"blocks.0.1.{ours}" for theirs, ours in first.items()},
        **{f"layer4.block2.{theirs}": f"blocks.3.2.{ours}" for theirs, ours in later.items()},
    }
    given = {f"{theirs}._amax": torch.tensor(float(i)) for i, theirs in enumerate(names)}
    mapped = to_our_names(given, "nvidia classification", "classifier", (), 0, 10)
    assert mapped.ranges == {f"{ours}._amax": torch.tensor(float(i)) for i, ours in enumerate(names.values())}
    assert not mapped.tensors and not mapped.skipped


def test_what_a_quantizer_keeps_besides_its_range_is_left_out_and_named():
    given = {"conv_stem._input_quantizer.clip.clip_value_max": torch.ones(()), "conv_stem.weight": torch.ones(2)}
    mapped = to_our_names(given, "timm", "classifier", (), 0, 10)
    assert list(mapped.tensors) == ["conv_stem.weight"] and not mapped.ranges
    assert mapped.skipped == (("conv_stem._input_quantizer.clip.clip_value_max", "quantizer"),)
