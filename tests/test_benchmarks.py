"""Parts of the benchmark: the published algorithm, the accuracy gate, the report."""

import json
from dataclasses import replace

import pytest
import torch

from benchmarks import gates, gradients, report
from benchmarks.gates import Bound
from benchmarks.peers.moreau import Moreau
from benchmarks.peers.published import Layer, Published, PublishedByHand
from benchmarks.tasks import Case, Tasks
from sparsedis import solve_svm
from tests.oracle import NotSmoothError
from tests.tasks import random_task
from tools.marked_text import replace_between_marks

LAMBDA2 = 20.0


@pytest.fixture(scope="module")
def tasks() -> Tasks:
    """Two tasks in float64, away from kinks, with a quarter of the features inactive."""
    X, y = random_task(seed=3, way=3, shots=4, d=30, batch=2)
    cotangent = torch.randn(2, 30, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    full = torch.ones(2, dtype=torch.float64)
    return Tasks(X, y, 3, 2.0 * full, LAMBDA2 * full, cotangent)


@pytest.fixture(scope="module")
def exact(tasks: Tasks) -> gates.Reference:
    reference = gates.reference(tasks)
    assert reference.smooth.all()
    assert 0.1 < reference.sparsity < 0.9
    return reference


def ours(tasks: Tasks, tol: float = 1e-10) -> gates.Outcome:
    inputs = [x.detach().requires_grad_() for x in (tasks.features, tasks.lambda1, tasks.lambda2)]
    solution = solve_svm(inputs[0], tasks.labels, lambda1=inputs[1], lambda2=inputs[2], n_classes=3, tol=tol)
    grads = torch.autograd.grad((solution.weights * tasks.cotangent).sum(), inputs)
    return gates.Outcome(solution.weights.detach(), solution.dual, *grads)


@pytest.mark.slow
def test_published_steps_converge_to_the_reference(tasks, exact):
    layer = Layer(tasks)
    layer.solve(3000)
    assert (gates.relative_gap(tasks, layer.weights(), layer.dual) < 1e-9).all()
    torch.testing.assert_close(layer.weights(), exact.weights, atol=1e-7, rtol=1e-6)


def test_published_gradient_agrees_at_convergence_with_many_iterations(tasks, exact):
    peer = PublishedByHand(steps=3000, cg_iterations=300, ridge=1e-14, rtol=1e-12)
    verdict = gates.check_outcome(
        tasks, peer.prepare(tasks).forward_backward(), exact, gap=1e-8, gradient=Bound(1e-4, 1e-4)
    )
    assert verdict.refused is None
    assert verdict.gradient_error < 1e-4
    assert verdict.lambda1_error < 1e-4
    assert verdict.lambda2_error < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings", [{}, {"steps": 40, "cg_iterations": 12}, {"cg_iterations": 400}], ids=["published", "more", "stopped"]
)
def test_published_on_torchopt_agrees_with_derivatives_by_hand(tasks, settings):
    pytest.importorskip("torchopt")
    prepared, by_hand = (peer(**settings).prepare(tasks) for peer in (Published, PublishedByHand))
    alone, got, expected = prepared.forward(), prepared.forward_backward(), by_hand.forward_backward()
    for outcome in (alone, got):
        torch.testing.assert_close(outcome.weights, expected.weights, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(outcome.dual, expected.dual, rtol=1e-12, atol=1e-14)
    # Up to 400 iterations of conjugate gradients amplify rounding errors.
    rtol = 1e-6 if settings.get("cg_iterations", 0) > 100 else 1e-9
    difference = (got.grad_features - expected.grad_features).norm() / expected.grad_features.norm()
    assert difference < rtol


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_moreau_agrees_with_the_oracle(tasks, exact):
    pytest.importorskip("moreau.torch")
    prepared = Moreau(tol=1e-10).prepare(tasks)
    for outcome in (prepared.forward(), prepared.forward_backward()):
        assert (outcome.weights - exact.weights).norm() < 1e-5 * exact.weights.norm()
    verdict = gates.check_outcome(tasks, outcome, exact, gap=1e-5, gradient=Bound(1e-4, 1e-4))
    assert verdict.refused is None
    assert verdict.lambda1_error < 1e-4
    assert verdict.lambda2_error < 1e-4


def test_moreau_refuses_tasks_of_different_labels(tasks):
    pytest.importorskip("moreau.torch")
    mixed = replace(tasks, labels=torch.stack([tasks.labels[0], tasks.labels[1].roll(1)]))
    with pytest.raises(ValueError, match="same labels"):
        Moreau().prepare(mixed)


def test_published_settings_pass_without_a_gate(tasks, exact):
    outcome = PublishedByHand().prepare(tasks).forward_backward()
    verdict = gates.check_outcome(tasks, outcome, exact, gap=None, gradient=None)
    assert verdict.refused is None
    assert verdict.gap > 1e-3
    assert verdict.gradient_error > 1e-2


def test_gate_passes_a_certified_solution(tasks, exact):
    verdict = gates.check_outcome(tasks, ours(tasks), exact, gap=1e-9, gradient=Bound(1e-6, 1e-6))
    assert verdict.refused is None
    assert verdict.gradients_checked == 2
    assert verdict.gradient_error_median <= verdict.gradient_error < 1e-6
    without_dual = ours(tasks)._replace(dual=None)
    assert gates.check_outcome(tasks, without_dual, exact, gap=1e-9, gradient=Bound(1e-6, 1e-6)).refused is None


def corrupt(value: torch.Tensor, factor: float) -> torch.Tensor:
    """A copy with the last task's entries multiplied."""
    changed = value.clone()
    changed[-1] *= factor
    return changed


def test_gate_refuses_a_corrupted_gradient_of_one_task(tasks, exact):
    good = ours(tasks)
    bad = good._replace(grad_features=corrupt(good.grad_features, 1.2))
    refused = gates.check_outcome(tasks, bad, exact, gap=1e-5, gradient=Bound(0.15, 0.1)).refused
    assert "largest gradient error 2.0e-01, above the 1e-01 allowed" in refused
    bad = good._replace(grad_features=1.2 * good.grad_features)
    refused = gates.check_outcome(tasks, bad, exact, gap=1e-5, gradient=Bound(0.1, 0.3)).refused
    assert "median gradient error 2.0e-01, above the 1e-01 allowed" in refused
    bad = good._replace(grad_features=corrupt(good.grad_features, float("nan")))
    assert "not finite" in gates.check_outcome(tasks, bad, exact, gap=1e-5, gradient=None).refused


def test_gate_refuses_derivatives_at_an_unconverged_point(tasks, exact):
    own = PublishedByHand(steps=30, cg_iterations=300, ridge=1e-14, rtol=1e-12).prepare(tasks).forward_backward()
    verdict = gates.check_outcome(tasks, own, exact, gap=None, gradient=Bound(1e-3, 1e-3))
    assert "gradient error" in verdict.refused


@pytest.mark.parametrize("field", ["weights", "dual"])
def test_gate_refuses_an_uncertified_solution(tasks, exact, field):
    good = ours(tasks)
    uniform = torch.full_like(good.dual, 1 / 3)
    bad = good._replace(weights=corrupt(good.weights, 1.1)) if field == "weights" else good._replace(dual=uniform)
    assert "relative gap" in gates.check_outcome(tasks, bad, exact, gap=1e-5, gradient=Bound(0.1, 0.1)).refused
    off = good._replace(dual=corrupt(good.dual, 1.1))
    assert "simplex" in gates.check_outcome(tasks, off, exact, gap=1e-5, gradient=Bound(0.1, 0.1)).refused
    not_finite = good._replace(weights=corrupt(good.weights, float("nan")))
    assert "not finite" in gates.check_outcome(tasks, not_finite, exact, gap=None, gradient=None).refused


def test_tasks_at_kinks_are_excluded_from_the_comparison(tasks, exact):
    good = ours(tasks)
    bad = good._replace(grad_features=corrupt(good.grad_features, 2.0))
    kinked = replace(exact, smooth=torch.tensor([True, False]))
    verdict = gates.check_outcome(tasks, bad, kinked, gap=1e-5, gradient=Bound(1e-6, 1e-6))
    assert verdict.refused is None
    assert verdict.gradient_error < 1e-6
    assert verdict.gradients_checked == 1


def test_a_task_without_a_gradient_keeps_its_certificate(tasks, exact, monkeypatch):
    solve = gates.solved_exactly

    def second_at_kink(features, *others):
        if abs(features - tasks.features[1].numpy()).max() < 1e-5:
            raise NotSmoothError("at a kink")
        return solve(features, *others)

    monkeypatch.setattr(gates, "solved_exactly", second_at_kink)
    known = gates.reference(tasks)
    assert known.smooth.tolist() == [True, False]
    torch.testing.assert_close(known.grad_features[0], exact.grad_features[0])
    torch.testing.assert_close(known.weights, exact.weights, rtol=1e-6, atol=1e-8)
    assert (gates.relative_gap(tasks, known.weights, known.dual) < 1e-9).all()


def test_a_gradient_that_jumps_under_a_perturbation_is_at_a_kink(tasks, monkeypatch):
    solve = gates.solved_exactly

    def jumping(features, *others):
        found = solve(features, *others)
        original = any((features == X.numpy()).all() for X in tasks.features)
        return found if original else replace(found, grad_features=1.002 * found.grad_features)

    monkeypatch.setattr(gates, "solved_exactly", jumping)
    assert not gates.reference(tasks).smooth.any()


def times(median: float) -> dict:
    return {"median": median, "p20": 0.9 * median, "p80": 1.1 * median, "times": [median] * 3}


def measured(name: str, forward: float, both: float, *, ours: bool = False, count: int = 8, gap: float = 1e-6) -> dict:
    verdict = {
        "gap": gap,
        "gap_median": gap / 2,
        "gradient_error": 1e-3,
        "gradient_error_median": 1e-4,
    }
    verdict |= {"lambda1_error": 1e-3, "lambda2_error": None, "gradients_checked": 8, "refused": None}
    details = {"n_iter": [5] * 8, "active": [200] * 8, "certified": 1.0} if ours else {}
    row = {"name": name, "ours": ours, "status": "measured", "describe": name, "note": "", "count": count}
    return {**row, "verdict": verdict, "details": details, "forward": times(forward), "forward_backward": times(both)}


@pytest.fixture
def record() -> dict:
    cases = []
    for d in (640, 1600):
        about = {"groups": ["reference", "d"], "shots": 5, "d": d, "ways": 5, "batch": 8, "lambda1": 4.0}
        contenders = [
            measured("published", 0.01, 0.08, gap=0.3),
            measured("published, by hand", 0.01, 0.16, gap=0.3),
            measured("newton (torch)", 0.006, 0.008, ours=True),
            measured("cvxpylayers", 0.5, 1.0, count=1),
            {"name": "jaxopt", "ours": False, "status": "failed", "reason": "TypeError: too | new"},
            {
                "name": "qpth",
                "ours": False,
                "status": "not available",
                "reason": "not installed: No module named 'qpth'",
            },
            {"name": "bcd (torch)", "ours": True, "status": "refused", "reason": "relative gap 1.0e-02"},
        ]
        cases.append(
            {"name": f"case {d}", "case": about, "n": 25, "sparsity": 0.5, "smooth": 7, "checked": 8}
            | {"contenders": contenders}
        )
    points = [
        {
            "series": "newton",
            "setting": f"tol 1e-{i}",
            "gap": 10.0**-i,
            "gradient_error": 2 * 10.0**-i,
            "gradient_error_median": 10.0**-i,
            "forward": times(i / 100),
            "forward_backward": times(i / 50),
        }
        for i in (1, 2)
    ]
    return {
        "date": "2026-01-01T00:00:00+00:00",
        "quick": True,
        "threads": 2,
        "device": "cpu",
        "encoder": "none",
        "machine": {"cpu": "a CPU", "cores": 2, "platform": "Linux", "python": "3.11", "load": 0.5},
        "versions": {"torch": "2.13"},
        "commit": "abc",
        "roofline": {"sgemm_gflops": 100.0, "copy_gb_per_s": 20.0},
        "cases": cases,
        "curve": {"name": "case 640", "points": points, "failed": {"jaxopt": "not installed"}},
    }


@pytest.mark.slow
def test_report_shows_failures_without_numbers(record, tmp_path):
    text = report.write(json.loads(json.dumps(record)), tmp_path)
    assert (tmp_path / "report.md").read_text().startswith(text)
    assert "failed: TypeError: too \\| new" in text
    assert "not available: not installed: No module named 'qpth'" in text
    summary = report.summary_table(record)
    assert "| qpth |" not in summary, "a row of dashes"
    assert "- qpth, not available: not installed: No module named 'qpth'" in summary
    refused = [line for line in text.splitlines() if "refused: relative gap" in line]
    assert all(line.split(" | ")[1:6] == ["-"] * 5 for line in refused if line.startswith("| bcd"))
    assert "| cvxpylayers | 4000 (3600 .. 4400) | 8000 (7200 .. 8800)" in text
    assert "1 of 8 tasks timed, time multiplied by 8" in text
    assert "| newton | tol 1e-2 | 1.0e-02 | 1.0e-02 / 2.0e-02 | 20.0 (18.0 .. 22.0) | 40.0 (36.0 .. 44.0) |" in text
    assert "| newton (torch) | 6.0 (5.4 .. 6.6) | 8.0 (7.2 .. 8.8) | 5.0e-07 / 1.0e-06 | 1.0e-04 / 1.0e-03 |" in text
    assert "| published | 80.0 (3.0e-01; 1.0e-04 / 1.0e-03) |" in summary
    for name in ("time_features", "gap_time", "gradient_time", "roofline"):
        assert (tmp_path / f"{name}.png").stat().st_size > 1000


def test_report_shows_gap_and_gradient_error_of_refused_solvers(record):
    row = record["cases"][0]["contenders"][2]
    row |= {"status": "refused", "reason": "median gradient error 1.0e-04, above the 1e-06 allowed"}
    line = next(line for line in report.case_table(record["cases"][0]).splitlines() if "newton" in line)
    assert line.startswith("| newton (torch) | - | - | 5.0e-07 / 1.0e-06 | 1.0e-04 / 1.0e-03 | 1.0e-03 / - | refused:")
    assert "- newton (torch), refused at 5-shot, d=640: median gradient error" in report.summary_table(record)


def test_report_warns_about_load_from_other_processes(record):
    assert "Disturbed" not in report.markdown(record)
    record["cases"][0]["foreign_cores"] = 1.3
    named = f"{record['cases'][0]['name']} (1.30 cores).**"
    assert f"Disturbed: in 1 of {len(record['cases'])} cases" in report.markdown(record)
    assert named in report.markdown(record)
    assert named in report.for_readme(record)
    record["cases"][0]["case"]["groups"] = ["batch"]
    assert "Disturbed" not in report.for_readme(record), "it shows the reference shapes only"


def test_targets_are_met_not_met_or_not_measured(record):
    rows = {what: (reached, state) for what, _, reached, state in report.targets(record)}
    assert rows["5-shot, d=640: against the published 5 steps on torchopt"] == ("10x by newton (torch)", "met")
    assert rows["5-shot, d=640: against cvxpylayers"] == ("1e+03x by newton (torch)", "met")
    assert rows["5-shot, d=640: against jaxopt"] == ("jaxopt failed: TypeError: too | new", "not measured")
    assert rows["5-shot, d=640: backward / forward"][1] == "met"
    assert rows["5-shot, d=640: against them with derivatives by hand"] == ("20x by newton (torch)", "")
    assert rows["15-shot, d=16000: against the published 5 steps on torchopt"][1] == "not measured"
    assert rows["the five on torchopt, geometric mean"][1] == "not measured"
    record["cases"][0]["contenders"][2]["forward"] = times(0.009)  # longer than forward + backward: noise
    rows = {what: state for what, *_, state in report.targets(record)}
    assert rows["5-shot, d=640: backward / forward"] == "not measured"
    record["cases"][0]["contenders"][0]["forward_backward"] = times(0.05)
    assert (
        "5-shot, d=640: against the published 5 steps on torchopt",
        "10x",
        "6.25x by newton (torch)",
        "not met",
    ) in report.targets(record)


def test_ratios_are_relative_to_the_published_algorithm_on_torchopt(record):
    lines = report.ratio_table(record).splitlines()
    assert lines[0].endswith("| 15-shot, d=1600 | 5-shot, d=16000 | 15-shot, d=16000 | geometric mean |")
    assert lines[2:] == ["| this package | 10.0 | 10.0 | - | - | - | - |", "| target | 10 | 12 | 7 | 12 | 14 | 12 |"]
    for shots, d, seconds in ((15, 1600, 0.08), (5, 16000, 0.16), (15, 16000, 0.32)):
        more = json.loads(json.dumps(record["cases"][0]))
        more["case"] |= {"shots": shots, "d": d}
        more["contenders"][0]["forward_backward"] = times(seconds)
        record["cases"].append(more)
    lines = report.ratio_table(record).splitlines()
    assert lines[2] == "| this package | 10.0 | 10.0 | 10.0 | 20.0 | 40.0 | 15.2 |"
    assert lines[2] in report.for_readme(record)
    assert lines[2] in report.markdown(record)
    record["cases"][0]["contenders"][2]["status"] = "refused"  # no ratio for a refused solver
    record["cases"][0]["contenders"][2]["reason"] = "gradient error"
    assert report.ratio_table(record).splitlines()[2] == "| this package | - | 10.0 | 10.0 | 20.0 | 40.0 | - |"


def test_the_table_replaces_the_text_between_the_marks_in_the_readme(record, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- benchmarks -->\nold\n<!-- /benchmarks -->\nafter\n")
    replace_between_marks(readme, "benchmarks", report.for_readme(record))
    text = readme.read_text()
    assert text.startswith("before\n<!-- benchmarks -->\n8 tasks")
    assert text.endswith("<!-- /benchmarks -->\nafter\n")
    assert "old" not in text
    assert "2026-01-01, a CPU" in text
    assert "| this package, ms (largest gap; gradient error) | 8.0 (1.0e-06; 1.0e-03) |" in text
    readme.write_text("no marks")
    with pytest.raises(ValueError, match="expected the lines"):
        replace_between_marks(readme, "benchmarks", "")


def test_useful_flops_follow_the_formula(record):
    case = record["cases"][0]
    one = 4 * 25 * 640 * 4 + 200 * 100**2 + 100**3 / 3
    assert report.useful_flops(case, case["contenders"][2]) == pytest.approx(8 * 5 * one)


def test_case_names_are_unique():
    from benchmarks.tasks import cases

    for quick in (True, False):
        names = [case.name for case in cases(quick)]
        assert len(set(names)) == len(names)
    assert Case((), relative=True, lambda1=0.1).name != Case((), lambda1=0.1).name


@pytest.mark.slow
def test_gradient_table_reuses_saved_oracle_results(tmp_path, monkeypatch, capsys):
    words = ["gradients", "--tasks", "3", "--kinds", "dense", "--backend", "torch", "--dtype", "float64"]
    monkeypatch.setattr("sys.argv", [*words, "--answers", str(tmp_path / "answers.pt")])
    gradients.main()
    table = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    assert [row[4] for row in rows[2:]] == ["X", "lambda1", "lambda2", "dual_reg"]
    assert {tuple(row[:4]) for row in rows[2:]} == {("dense", "3", "torch", "float64")}
    assert all(0 < float(row[5]) <= float(row[8]) for row in rows[2:])

    def called_again(task):
        raise AssertionError("the oracle was called although the file has its results")

    monkeypatch.setattr(gradients.SmoothTask, "smooth", called_again)
    gradients.main()
    assert capsys.readouterr().out == table
