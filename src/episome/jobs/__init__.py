"""The verbs as plain functions; the command line and the page call these."""

from __future__ import annotations

from typing import TYPE_CHECKING

from episome._lazy import lazy_names

if TYPE_CHECKING:
    from episome.jobs._annotate import (
        AnnotateRequest,
        AnnotateResult,
        annotate,
        describe_input,
        file_digest,
    )
    from episome.jobs._annotate_plan import AnnotatePlan, annotate_plan
    from episome.jobs._asked import QueryRequest
    from episome.jobs._audit import AuditRequest, AuditResult, audit
    from episome.jobs._auto import AutoResult, train_auto
    from episome.jobs._benchmark import (
        BenchmarkRequest,
        BenchmarkResult,
        benchmark_compare,
        benchmark_list,
        benchmark_merge,
        benchmark_plan,
        benchmark_report,
        benchmark_run,
    )
    from episome.jobs._check import CheckRequest, CheckResult, check
    from episome.jobs._check_plugin import (
        Checked,
        PluginCheckRequest,
        PluginCheckResult,
        check_plugin,
    )
    from episome.jobs._convert_model import (
        ConvertedModel,
        ConvertModelRequest,
        converter_of,
        models_convert,
    )
    from episome.jobs._corpus import (
        CorpusFacts,
        CorpusRequest,
        CorpusResult,
        CorpusVerdict,
        SplitRequest,
        corpus_build,
        corpus_info,
        corpus_split,
        corpus_verify,
    )
    from episome.jobs._data import (
        ConvertRequest,
        DataDigest,
        data_census,
        data_convert,
        data_hash,
        input_digest,
        output_digest,
    )
    from episome.jobs._demo import DemoResult, DemoScore, demo, demo_cells
    from episome.jobs._embed import EmbedRequest, EmbedResult, embed
    from episome.jobs._evaluate import EvaluateRequest, EvaluateResult, evaluate
    from episome.jobs._explain import ExplainRequest, ExplainResult, explain
    from episome.jobs._exports import (
        ExportRequest,
        ExportResult,
        cell_annotation,
        data_export,
    )
    from episome.jobs._hub import PulledModel, PushedModel, models_pull, models_push
    from episome.jobs._impute import ImputeRequest, ImputeResult, impute
    from episome.jobs._labels_file import LabelJoin, join_labels
    from episome.jobs._model_card import (
        card_statements,
        missing_of_card,
        require_complete_card,
        write_model_card,
    )
    from episome.jobs._models import (
        ModelDetails,
        ModelFacts,
        model_details,
        models_list,
        models_remove,
        models_verify,
    )
    from episome.jobs._new_plugin import NewPluginRequest, NewPluginResult, new_plugin
    from episome.jobs._predict_modality import (
        PredictModalityRequest,
        PredictModalityResult,
        predict_modality,
    )
    from episome.jobs._repeat import request_code
    from episome.jobs._report import ReportRequest, ReportResult, report
    from episome.jobs._report_facts import agreement, composition, sample_columns
    from episome.jobs._runs import Run, file_state
    from episome.jobs._train import (
        TrainPlan,
        TrainRequest,
        TrainResult,
        device_arguments,
        run_folder,
        train,
        train_plan,
    )
    from episome.jobs._tune import TuneRequest, TuneResult, tune

_HOME = {
    "AnnotateRequest": "_annotate",
    "AnnotateResult": "_annotate",
    "AnnotatePlan": "_annotate_plan",
    "annotate_plan": "_annotate_plan",
    "TrainPlan": "_train",
    "train_plan": "_train",
    "AuditRequest": "_audit",
    "AuditResult": "_audit",
    "AutoResult": "_auto",
    "CheckRequest": "_check",
    "CheckResult": "_check",
    "ConvertRequest": "_data",
    "DataDigest": "_data",
    "data_census": "_data",
    "data_convert": "_data",
    "data_hash": "_data",
    "file_digest": "_annotate",
    "input_digest": "_data",
    "output_digest": "_data",
    "ExportRequest": "_exports",
    "ExportResult": "_exports",
    "cell_annotation": "_exports",
    "data_export": "_exports",
    "ConvertModelRequest": "_convert_model",
    "ConvertedModel": "_convert_model",
    "converter_of": "_convert_model",
    "models_convert": "_convert_model",
    "Checked": "_check_plugin",
    "BenchmarkRequest": "_benchmark",
    "BenchmarkResult": "_benchmark",
    "CorpusFacts": "_corpus",
    "CorpusRequest": "_corpus",
    "CorpusResult": "_corpus",
    "CorpusVerdict": "_corpus",
    "SplitRequest": "_corpus",
    "benchmark_compare": "_benchmark",
    "benchmark_list": "_benchmark",
    "benchmark_merge": "_benchmark",
    "benchmark_plan": "_benchmark",
    "benchmark_report": "_benchmark",
    "benchmark_run": "_benchmark",
    "corpus_build": "_corpus",
    "corpus_info": "_corpus",
    "corpus_split": "_corpus",
    "corpus_verify": "_corpus",
    "DemoResult": "_demo",
    "DemoScore": "_demo",
    "EmbedRequest": "_embed",
    "EmbedResult": "_embed",
    "EvaluateRequest": "_evaluate",
    "EvaluateResult": "_evaluate",
    "ExplainRequest": "_explain",
    "ExplainResult": "_explain",
    "explain": "_explain",
    "ImputeRequest": "_impute",
    "ImputeResult": "_impute",
    "ModelDetails": "_models",
    "ModelFacts": "_models",
    "PulledModel": "_hub",
    "PushedModel": "_hub",
    "card_statements": "_model_card",
    "missing_of_card": "_model_card",
    "model_details": "_models",
    "models_list": "_models",
    "models_pull": "_hub",
    "models_push": "_hub",
    "models_remove": "_models",
    "models_verify": "_models",
    "require_complete_card": "_model_card",
    "write_model_card": "_model_card",
    "LabelJoin": "_labels_file",
    "NewPluginRequest": "_new_plugin",
    "NewPluginResult": "_new_plugin",
    "PluginCheckRequest": "_check_plugin",
    "PluginCheckResult": "_check_plugin",
    "PredictModalityRequest": "_predict_modality",
    "PredictModalityResult": "_predict_modality",
    "QueryRequest": "_asked",
    "ReportRequest": "_report",
    "ReportResult": "_report",
    "Run": "_runs",
    "file_state": "_runs",
    "TrainRequest": "_train",
    "TrainResult": "_train",
    "request_code": "_repeat",
    "agreement": "_report_facts",
    "annotate": "_annotate",
    "audit": "_audit",
    "check": "_check",
    "check_plugin": "_check_plugin",
    "composition": "_report_facts",
    "demo": "_demo",
    "demo_cells": "_demo",
    "describe_input": "_annotate",
    "device_arguments": "_train",
    "embed": "_embed",
    "evaluate": "_evaluate",
    "impute": "_impute",
    "join_labels": "_labels_file",
    "new_plugin": "_new_plugin",
    "predict_modality": "_predict_modality",
    "report": "_report",
    "run_folder": "_train",
    "train": "_train",
    "train_auto": "_auto",
    "TuneRequest": "_tune",
    "TuneResult": "_tune",
    "sample_columns": "_report_facts",
    "tune": "_tune",
}
__all__ = sorted(_HOME)

__getattr__, __dir__ = lazy_names(__name__, _HOME)
