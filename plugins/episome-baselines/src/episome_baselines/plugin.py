"""What this plugin adds to the host: names and targets only, nothing heavy."""

from __future__ import annotations

from episome.plugins import ModelSpec, hookimpl

EPISOME_API = (1, 0)


def _spec(
    name: str,
    class_name: str,
    summary: str,
    *,
    tags: tuple[str, ...],
    capabilities: tuple[str, ...] = ("annotation",),
) -> ModelSpec:
    target = f"episome_baselines.{name}:{class_name}"
    return ModelSpec(
        name=name,
        target=target,
        core=f"episome_baselines.cores:{class_name}Core",
        summary=summary,
        capabilities=capabilities,
        tags=tags,
    )


@hookimpl
def episome_register_models() -> tuple[ModelSpec, ...]:
    """Return the models of this plugin."""
    return (
        _spec(
            "majority", "MajorityClass", "always the most frequent training label", tags=("floor",)
        ),
        _spec(
            "centroid",
            "NearestCentroid",
            "the class with the closest mean profile",
            tags=("floor",),
        ),
        _spec(
            "logreg",
            "LogisticRegression",
            "sparse multinomial logistic regression, tuned on training cells",
            tags=("demo", "floor", "probe"),
            capabilities=("annotation", "explanation"),
        ),
        _spec(
            "knn",
            "KNNClassifier",
            "vote of the nearest training cells",
            tags=("floor",),
            capabilities=("annotation", "embedding"),
        ),
    )
