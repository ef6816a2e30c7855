"""Small mistakes put into the module's mathematics, one at a time, to see whether the tests notice:
`python tests/mutants.py`, or `python tests/mutants.py 1` for one process at a time.

Each line of `MUTANTS` is a slip that somebody could make: a sign, a factor, a dropped constant, a mean for a sum,
log σ for log σ², a wrong axis. The tests that mirror the module have to fail on it; a survivor means a missing test.

The interpreter loads torch once and forks for each mutant, which then imports a changed copy of the package.
"""

import gc
import importlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
Mutant = tuple[str, str, str]

# module, what stands there, what a slip would make of it
MUTANTS: list[Mutant] = [
    ("gaussians", "return self.mu + self.sigma * epsilon", "return self.mu - self.sigma"),
    ("gaussians", "return self.mu + self.sigma * epsilon", "return self.mu + self.sigma**2 * epsilon"),
    ("gaussians", "return self.mu + self.sigma * epsilon", "return self.mu + self.log_sigma * epsilon"),
    ("gaussians", "return self.mu + self.sigma * epsilon", "return (self.mu + self.sigma * epsilon).detach()"),
    ("gaussians", "return self.log_sigma.exp()", "return (0.5 * self.log_sigma).exp()"),
    ("gaussians", "(-self.log_sigma).exp()", "(-2 * self.log_sigma).exp()"),
    ("gaussians", "(-0.5 * standardised.square() - ", "(0.5 * standardised.square() - "),
    ("gaussians", "(-0.5 * standardised.square() - ", "(-standardised.square() - "),
    ("gaussians", "- self.log_sigma - 0.5 * LOG_2PI", "+ self.log_sigma - 0.5 * LOG_2PI"),
    ("gaussians", "- self.log_sigma - 0.5 * LOG_2PI", "- self.log_sigma"),
    ("gaussians", "- self.log_sigma - 0.5 * LOG_2PI", "- self.log_sigma - LOG_2PI"),
    ("gaussians", "- self.log_sigma - 0.5 * LOG_2PI).sum(-1)", "- self.log_sigma - 0.5 * LOG_2PI).mean(-1)"),
    ("gaussians", "- self.log_sigma - 0.5 * LOG_2PI).sum(-1)", "- self.log_sigma - 0.5 * LOG_2PI).sum(0)"),
    ("gaussians", "0.5 * (1 + LOG_2PI)).sum(-1)", "0.5 * LOG_2PI).sum(-1)"),
    ("gaussians", "(self.log_sigma + 0.5 * (1 + LOG_2PI)", "(0.5 * self.log_sigma + 0.5 * (1 + LOG_2PI)"),
    ("gaussians", "(self.log_sigma + 0.5 * (1 + LOG_2PI)).sum(-1)", "(self.log_sigma + 0.5 * (1 + LOG_2PI)).mean(-1)"),
    ("gaussians", "self.below = below.tril(-1)", "self.below = below"),
    ("gaussians", "self.below = below.tril(-1)", "self.below = below.triu(1)"),
    ("gaussians", "self.below + self.log_sigma.exp().diag_embed()", "self.below + (2 * self.log_sigma).exp().diag_embed()"),
    ("gaussians", "self.cholesky @ self.cholesky.mT", "self.cholesky.mT @ self.cholesky"),
    ("gaussians", "(self.cholesky @ epsilon", "(self.covariance @ epsilon"),
    ("gaussians", "(self.cholesky, distance, upper=False)", "(self.cholesky.mT, distance, upper=True)"),
    ("estimates", "draws.std() / math.sqrt(draws.numel())", "draws.std()"),
    ("estimates", "draws.std() / math.sqrt(draws.numel())", "draws.std(correction=0) / math.sqrt(draws.numel())"),
    ("estimates", "error = self.value - truth", "error = truth - self.value"),
    ("estimates", "math.hypot(*(part.stderr for part in parts))", "parts[0].stderr"),
    ("estimates", "math.hypot(*(part.stderr for part in parts))", "parts[-1].stderr"),
    ("ledger", "found.value - CLAIM_Z * found.stderr > above", "found.value > above"),
    ("ledger", "found.value - CLAIM_Z * found.stderr > above", "abs(found.value) - CLAIM_Z * found.stderr > above"),
    ("ledger", "abs(found.value) + CLAIM_Z * found.stderr < within", "found.value + CLAIM_Z * found.stderr < within"),
    ("ledger", "abs(found.value) + CLAIM_Z * found.stderr < within", "abs(found.value) < within"),
    ("ledger", "z <= MAX_Z and math", "z <= 2 * MAX_Z and math"),
    ("ledger", "slack / abs(right) if right", "slack if right"),
    ("ledger", "slack = allowed * relative_to", "slack = allowed"),
    ("ledger", "bool(deviations[k] <= allowed)", "bool(deviations.mean() <= allowed)"),
    ("quadrature", "step = (high - low) / (n - 1)", "step = (high - low) / n"),
    ("quadrature", "m * math.log(step)", "math.log(step)"),
    ("quadrature", "log_f.logsumexp(-1) + on.log_volume", "log_f.logsumexp(-1) - on.log_volume"),
    ("quadrature", "weight * f, torch", "f, torch"),
    ("divergences", "- 2 * log_sigma - 1).sum(-1)", "- log_sigma - 1).sum(-1)"),
    ("divergences", "- 2 * log_sigma - 1).sum(-1)", "- mu.shape[-1] * log_sigma - 1).sum(-1)"),
    ("divergences", "- 2 * log_sigma - 1).sum(-1)", "- 2 * log_sigma).sum(-1)"),
    ("divergences", "- 2 * log_sigma - 1).sum(-1)", "- 2 * log_sigma - 1).mean(-1)"),
    ("divergences", "0.5 * (mu.square() + (2 * log_sigma).exp()", "(mu.square() + (2 * log_sigma).exp()"),
    ("divergences", "0.5 * (mu.square() + (2 * log_sigma).exp()", "0.5 * (mu.square() + log_sigma.exp()"),
    ("divergences", "0.5 * (mu.square() + (2 * log_sigma).exp()", "0.5 * (mu + (2 * log_sigma).exp()"),
    ("divergences", "kl + 0.5 * q.below.square()", "kl + q.below.square()"),
    ("divergences", "kl + 0.5 * q.below.square()", "kl - 0.5 * q.below.square()"),
    ("divergences", ".sum((-2, -1)) if isinstance", ".sum() if isinstance"),
    ("divergences", "log_ratio = q.log_sigma - p.log_sigma", "log_ratio = p.log_sigma - q.log_sigma"),
    ("divergences", "(q.mu - p.mu) * (-p.log_sigma).exp()", "(q.mu - p.mu) * (-q.log_sigma).exp()"),
    ("divergences", "distance.square() - 1) - log_ratio", "distance.square() - 1) + log_ratio"),
    ("divergences", "at_q - log_p(on.points)", "log_p(on.points) - at_q"),
    ("divergences", "q.log_prob(z) - log_p(z)", "-log_p(z)"),
    ("linear", "self.W.T @ self.W + self.sigma_dec.square()", "self.W.T @ self.W + self.sigma_dec"),
    ("linear", "precision_matrix=self.M / self.sigma_dec.square()", "precision_matrix=self.M"),
    ("linear", "self.sigma_dec.square() + c.square().sum(-1)", "self.sigma_dec.square()"),
    ("linear", "log_det = 2 * factor", "log_det = factor"),
    ("linear", "2 * (self.d - self.m) * self.sigma_dec.log()", "2 * self.d * self.sigma_dec.log()"),
    ("linear", "+ self.d * LOG_2PI)", "+ self.m * LOG_2PI)"),
    ("linear", "variance * self.W.square().sum(0)", "variance * self.W.sum(0).square()"),
    ("linear", "self.sigma_dec.log() - 0.5 * self.M.diagonal().log()", "self.sigma_dec.log() - self.M.diagonal().log()"),
    ("linear", "log_decoder + log_prior + q.entropy()", "log_decoder + log_prior - q.entropy()"),
    ("linear", "values[m:].mean()", "values[m:].sum()"),
    ("linear", "(values[:m] - noise)", "values[:m]"),
    ("linear", "x.T.cov(correction=0)", "x.T.cov()"),
    ("models", "mu, log_sigma = self.network(x).to", "log_sigma, mu = self.network(x).to"),
    ("models", "return DiagonalGaussian(mu, log_sigma)", "return DiagonalGaussian(mu, 0.5 * log_sigma)"),
    ("models", "self.network(z).to(z.dtype), self.log_sigma_dec)", "self.network(z), 2 * self.log_sigma_dec)"),
    ("models", "BernoulliPixels(self.network(z).to(z.dtype))", "BernoulliPixels(-self.network(z))"),
    ("bernoulli", "(2 * x - 1) * self.logits", "(1 - 2 * x) * self.logits"),
    ("bernoulli", "self.logits).sum(-1)", "self.logits).mean(-1)"),
    ("bernoulli", "torch.sigmoid(self.logits)", "torch.softmax(self.logits, -1)"),
    ("models", "return nn.Sequential(*layers[:-1])", "return nn.Sequential(*layers)"),
    ("models", "generator.manual_seed(seed)", "generator.manual_seed(0)"),
    ("objectives", "+ model.prior().log_prob(z) - q.log_prob(z)", "- q.log_prob(z)"),
    ("objectives", "+ model.prior().log_prob(z) - q.log_prob(z)", "+ model.prior().log_prob(z) + q.log_prob(z)"),
    ("objectives", "log_w.logsumexp(0) - math.log(len(log_w))", "log_w.logsumexp(0)"),
    ("objectives", "log_w.logsumexp(0) - math.log(len(log_w))", "log_w.mean(0)"),
    ("objectives", "log_w.logsumexp(0) - math.log(len(log_w))", "log_w.logsumexp(1) - math.log(len(log_w))"),
    ("evaluation", "sub_(math.log(n_samples))", "sub_(math.log(chunk))"),
    ("evaluation", "min(chunk, n_samples - start)", "chunk"),
    ("evaluation", "if compile:  # compiled", "if False:  # compiled"),
    ("evaluation", "torch.logaddexp(part, log_w.logsumexp(0), out", "torch.maximum(part, log_w.logsumexp(0), out"),
    ("evaluation", "x.split(BATCH), strict=True)", "x[:BATCH].split(BATCH), strict=False)"),
    ("objectives", "return log_likelihood - kl_to_prior(q)", "return log_likelihood + kl_to_prior(q)"),
    ("objectives", "log_p(model, x, z).mean(0)  # (L, B) -> (B,)\n    return", "log_p(model, x, z).sum(0)\n    return"),
    ("objectives", ".square().sum(-1).mean(0)", ".square().mean(-1).mean(0)"),
    ("objectives", ".square().sum(-1).mean(0)", ".square().sum(-1).sum(0)"),
    ("objectives", "kl = sigma_dec**2 * (", "kl = sigma_dec * ("),
    ("objectives", "- 2 * q.log_sigma).sum(-1)", "- model.latent_dim * q.log_sigma).sum(-1)"),
    ("objectives", "- 2 * q.log_sigma).sum(-1)", "- 2 * q.log_sigma).mean(-1)"),
    ("objectives", "reconstruction = -log_p(model, x, z)", "reconstruction = log_p(model, x, z)"),
    ("objectives", "Loss(reconstruction, kl, -(reconstruction + kl))", "Loss(reconstruction, kl, kl - reconstruction)"),
    ("objectives", "(latent_dim - d * math.log(", "(latent_dim - math.log("),
    ("objectives", "(latent_dim - d * math.log(2 * math.pi * variance))", "(-d * math.log(2 * math.pi * variance))"),
    ("objectives", "(constant - loss) / (2 * variance)", "(constant - loss) / variance"),
    ("training", "(terms.reconstruction + terms.kl).mean().backward()", "(terms.reconstruction + terms.kl).sum().backward()"),
    ("training", "(terms.reconstruction + terms.kl).mean().backward()", "terms.reconstruction.mean().backward()"),
    ("objectives", "log_mean(log_likelihood + model.prior().log_prob(z) - q.log_prob(z))", "log_mean(log_likelihood + model.prior().log_prob(z))"),
    ("objectives", "Loss(reconstruction, -bound - reconstruction, bound)", "Loss(reconstruction, -bound, bound)"),
    ("objectives", "loss(model, binarise(x, generator), n_samples, generator)", "loss(model, x.round(), n_samples, generator)"),
    ("training", "learning_rate * schedule((epoch - 1) / epochs)", "learning_rate * schedule(epoch / epochs)"),
    ("training", "learning_rate * schedule((epoch - 1) / epochs)", "learning_rate"),
    ("training", "model.zero_grad()\n", "pass\n"),
    ("training", "return terms.mean(-1, dtype", "return terms.sum(-1, dtype"),
    ("training", "if compile:  # the", "if False:  # the"),
    ("training", "arithmetic=f", "batch=f"),
    ("faster", "            shared.set_state(before)", "            pass"),
    ("faster", "            source.set_state(after)", "            pass"),
    ("faster", 'able = device.type == "cpu" and', 'able = device.type == "cpu" or'),
    ("training", "in_mode(model, False), seeded(1_000_003 * seed % 2**63)", "in_mode(model, True), seeded(1_000_003 * seed % 2**63)"),
    ("training", "        torch.clear_autocast_cache()", "        pass"),
    ("models", "part.training = mode", "pass"),
    ("evaluation", "in_mode(model, False)", "in_mode(model, True)"),
    ("checkpoints", "str(value.dtype), tuple(value.shape), plain", "plain"),
    ("checkpoints", "around = [cell.cell_contents for cell in value.__closure__ or ()]", "around = []"),
    ("checkpoints", "[value.__globals__[name] for name in names]", "[]"),
    ("checkpoints", "first.setdefault(id(value), name)", "name"),
    ("data", "torch.promote_types(x.dtype, torch.float32)", "x.dtype"),
    ("objectives", "log_likelihood.shape != z.shape[:-1]", "False"),
    ("training", "manual_seed(seed + 1)", "manual_seed(len(x))"),
    ("checkpoints", "generator.set_state(tensors[\"generator\"])", "pass"),
]  # fmt: skip


def mutate(folder: Path, module: str, old: str, new: str) -> None:
    """A copy of the package in ``folder`` with one slip in one module."""
    shutil.copytree(ROOT / "vaebook", folder / "vaebook", ignore=shutil.ignore_patterns("__pycache__"))
    file = folder / "vaebook" / f"{module}.py"
    text = file.read_text(encoding="utf-8")
    if old not in text:
        raise SystemExit(f"tests/mutants.py: {module}.py no longer holds {old!r}")
    file.write_text(text.replace(old, new, 1), encoding="utf-8")


def start(module: str, old: str, new: str) -> tuple[int, Path]:
    """Run the mirrored tests on a mutant, in a fork; return its process id and the folder it works in."""
    folder = Path(tempfile.mkdtemp(prefix="mutant-"))
    mutate(folder, module, old, new)
    child = os.fork()
    if child == 0:
        sys.path.insert(0, str(folder))
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        import pytest

        import vaebook

        assert vaebook.__file__.startswith(str(folder))
        tests = str(ROOT / "tests" / f"test_{module}.py")
        options = [
            "-x",
            "-q",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:nbval",
            "-p",
            "no:xdist",
            "--hypothesis-profile=quick",
        ]
        os._exit(pytest.main([tests, *options]))
    return child, folder


def outcomes(mutants: Sequence[Mutant], jobs: int) -> Iterator[tuple[Mutant, int]]:
    """Each mutant with pytest's exit code on its tests, as they finish: 0 all passed, 1 some failed, else an error."""
    waiting, running = list(reversed(mutants)), dict[int, tuple[Path, Mutant]]()
    while waiting or running:
        while waiting and len(running) < jobs:
            mutant = waiting.pop()
            child, folder = start(*mutant)
            running[child] = folder, mutant
        child, status = os.wait()
        folder, mutant = running.pop(child)
        shutil.rmtree(folder)
        yield mutant, os.waitstatus_to_exitcode(status)


def preload() -> None:
    """Import what the tests import, once for all forks; not pytest's plugins, which have to be rewritten by it."""
    for name in (
        "sklearn.datasets",
        "torch.optim",
        "matplotlib.pyplot",
        "IPython.display",
        "sympy",
        "scipy.ndimage",
        "PIL.Image",
        "nbformat",
        "vaebook_runner.execute",
        "vaebook_runner.forked",
    ):
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # or a fork's collector would touch, and so copy, every page


def main() -> int:
    jobs = int(sys.argv[1]) if len(sys.argv) > 1 else os.cpu_count() or 1
    os.environ["OMP_NUM_THREADS"] = "1"  # a fork cannot share its parent's threads
    preload()

    # On the unchanged module every test must pass: without this a broken set-up would look like a row of catches.
    controls = [(module, old, old) for module, old in {module: old for module, old, _ in MUTANTS}.items()]
    for (module, _, _), code in outcomes(controls, jobs):
        if code != 0:
            raise SystemExit(f"tests/test_{module}.py ends with {code} on the module as it is; mend that first")
    caught = 0
    for (module, old, new), code in outcomes(MUTANTS, jobs):
        caught += (failed := code == 1)
        print(f"{'caught  ' if failed else 'SURVIVED'} {module}: {old!r} -> {new!r}", flush=True)
    print(f"{caught} of {len(MUTANTS)} mutants caught")
    return int(caught < len(MUTANTS))


if __name__ == "__main__":
    sys.exit(main())
