from craftc.plans.evaluation import Evaluation, LayerEvaluation
from craftc.report.evaluation_report import evaluation_document, evaluation_text
from tests.cli.command_line import check_golden

EVALUATION = Evaluation(
    steps=12,
    loads="sha256:00",
    own_loads=False,
    contiguous=0.4,
    planned=0.85,
    bound=0.95,
    contiguous_step_time=2.6,
    step_time=1.2,
    layers=(
        LayerEvaluation("model.layers.3.mlp.experts", 12, 0.3, 0.8, 0.9),
        LayerEvaluation("model.layers.4.mlp.experts", 0, 0.5, 0.9, 1.0),
    ),
)


def test_text():
    check_golden("evaluate.txt", f"{evaluation_text(EVALUATION)}\n")


def test_document():
    document = evaluation_document(EVALUATION)
    assert document["planned"] == 0.85
    assert document["layers"][0]["name"] == "model.layers.3.mlp.experts"
