"""What this plugin adds to the host: names and targets only, nothing heavy."""

from __future__ import annotations

from episome.plugins import ConverterSpec, ModelSpec, StudySpec, hookimpl

EPISOME_API = (1, 0)

#: Where the linear model and the network of the baselines were published.
SCTAB = "10.1038/s41467-024-51059-5"


def _spec(
    name: str,
    class_name: str,
    summary: str,
    *,
    tags: tuple[str, ...],
    capabilities: tuple[str, ...] = ("annotation",),
    cores: str = "cores",
    reference: str = "",
) -> ModelSpec:
    target = f"episome_baselines.{name}:{class_name}"
    return ModelSpec(
        name=name,
        target=target,
        core=f"episome_baselines.{cores}:{class_name}Core",
        summary=summary,
        capabilities=capabilities,
        tags=tags,
        reference=reference,
    )


def _translations() -> tuple[ModelSpec, ...]:
    """Models of another modality, predicted from RNA."""
    given = (
        (
            "feature-mean",
            "featuremean:FeatureMean",
            "the training mean of every feature, whatever the cell",
            ("floor-cross-modality",),
        ),
        (
            "ridge",
            "ridge:RidgeTranslation",
            "another modality by ridge regression on genes, tuned on training cells",
            (),
        ),
        (
            "knn-translation",
            "knntranslation:KNNTranslation",
            "another modality as the mean of the nearest training cells",
            (),
        ),
    )
    return tuple(
        ModelSpec(
            name=name,
            target=f"episome_baselines.{target}",
            core=f"episome_baselines.translation_cores:{target.split(':')[1]}Core",
            summary=summary,
            capabilities=("translation",),
            modalities=("rna", "protein"),
            tags=tags,
        )
        for name, target, summary, tags in given
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
            "linear",
            "LinearClassifier",
            "one linear layer, trained batch by batch",
            tags=("student",),
            capabilities=("annotation", "explanation"),
            cores="neural_cores",
            reference=SCTAB,
        ),
        _spec(
            "mlp",
            "MLPClassifier",
            "dense layers with batch norm, the plain network to beat",
            tags=(),
            capabilities=("annotation", "embedding", "explanation"),
            cores="neural_cores",
            reference=SCTAB,
        ),
        _spec(
            "pca",
            "PCAEmbedding",
            "principal components of the training cells; needs no labels",
            tags=("floor-integration",),
            capabilities=("embedding", "reconstruction"),
            cores="pca_core",
        ),
        _spec(
            "knn",
            "KNNClassifier",
            "vote of the nearest training cells",
            tags=("floor", "probe"),
            capabilities=("annotation", "embedding"),
        ),
        _spec(
            "correlation",
            "CorrelationClassifier",
            "rank correlation with profiles of each class, refined as in SingleR",
            tags=(),
            cores="correlation_core",
            reference="10.1038/s41590-018-0276-y",
        ),
        _spec(
            "markers",
            "MarkerScore",
            "mean of marker genes, from a table or learned; a table needs no labels",
            tags=("unlabelled",),
            cores="markers_core",
        ),
        *_translations(),
        ModelSpec(
            name="xgboost",
            target="episome_baselines.xgboost_pca:XGBoostPCA",
            core="episome_baselines.xgboost_core:XGBoostPCACore",
            summary="boosted trees on principal components (extra: xgboost)",
            reference=SCTAB,
            needs=("xgboost",),
        ),
        ModelSpec(
            name="celltypist",
            target="episome_baselines.celltypist_model:CellTypist",
            core="episome_baselines.celltypist_core:CellTypistCore",
            summary="CellTypist: a logistic regression per class on scaled, chosen genes",
            reference="10.1126/science.abl5197",
        ),
        ModelSpec(
            name="scvi",
            target="episome_baselines.scvi_adapters:SCVIAdapter",
            core="episome_baselines.scvi_core:SCVIAdapterCore",
            summary="scVI of scvi-tools: a latent space of counts; needs no labels",
            reference="10.1038/s41592-018-0229-2",
            tags=("floor-integration",),
            capabilities=("embedding", "reconstruction"),
            needs=("scvi",),
        ),
        ModelSpec(
            name="scanvi",
            target="episome_baselines.scvi_adapters:SCANVIAdapter",
            core="episome_baselines.scvi_core:SCANVIAdapterCore",
            summary="scANVI of scvi-tools: scVI trained further with labels",
            reference="10.15252/msb.20209620",
            capabilities=("annotation", "embedding"),
            needs=("scvi",),
        ),
        ModelSpec(
            name="jointembedding",
            target="episome_baselines.jointembedding:JointEmbeddingAdapter",
            core="episome_baselines.scvi_core:JointEmbeddingAdapterCore",
            summary="scVI with a self-supervised loss on thinned counts (needs scvi-tools 1.5)",
            reference="10.64898/2026.02.11.705441",
            capabilities=("embedding", "reconstruction"),
            needs=("scvi",),
        ),
        ModelSpec(
            name="totalvi",
            target="episome_baselines.totalvi:TOTALVIAdapter",
            core="episome_baselines.scvi_core:TOTALVIAdapterCore",
            summary="totalVI of scvi-tools: proteins from RNA through a latent space of both",
            reference="10.1038/s41592-020-01050-x",
            capabilities=("translation",),
            modalities=("rna", "protein"),
            needs=("scvi",),
        ),
    )


@hookimpl
def episome_register_studies() -> tuple[StudySpec, ...]:
    """Return the comparison of all installed annotators."""
    return (
        StudySpec(
            name="annotators",
            target="episome_baselines.studies:annotators",
            summary="all installed annotators on seven splits of public sets",
            tasks=("annotation",),
        ),
    )


@hookimpl
def episome_register_converters() -> tuple[ConverterSpec, ...]:
    """Return the format of models of CellTypist."""
    return (
        ConverterSpec(
            name="celltypist",
            target="episome_baselines.celltypist_model:CellTypist.from_file",
            summary="models of CellTypist (.pkl)",
        ),
    )
