"""Run the WDL workflow with miniwdl where there is no container engine: commands run as they are.

Called with a file of inputs (JSON) and a folder; miniwdl has to be importable.
"""

import json
import logging
import sys
from pathlib import Path

import WDL
import WDL.runtime.task_container as containers
from WDL.runtime.backend.cli_subprocess import SubprocessBase

HERE = Path(__file__).resolve().parent


class Bare(SubprocessBase):
    """A task's command in the environment of this process, in the task's own folder."""

    def __init__(self, cfg, run_id, host_dir):
        super().__init__(cfg, run_id, host_dir)
        self.container_dir = self.host_dir

    @classmethod
    def global_init(cls, cfg, logger):
        """Say what the machine has."""
        cls.detect_resource_limits(cfg, logger)

    @property
    def cli_name(self):
        """Name in logs."""
        return "bare"

    def _pull_invocation(self, logger, cleanup):
        return ("none", [])

    def _run_invocation(self, logger, cleanup, image):
        return ["env", "-C", str(Path(self.host_dir) / "work")]

    def prepare_mounts(self):
        """Nothing is mounted: inputs are copied."""
        self.touch_mount_point(self.host_stdout_txt())
        self.touch_mount_point(self.host_stderr_txt())
        return []


def main() -> None:
    """Run it, and print its outputs."""
    inputs, place = sys.argv[1:]
    logger = logging.getLogger("wdl")
    logging.basicConfig(level=logging.WARNING)
    cfg = WDL.runtime.config.Loader(logger, overrides={})
    cfg.override(
        {
            "scheduler": {"container_backend": "bare"},
            "file_io": {"copy_input_files": True, "root": "/"},
        }
    )
    containers._backends["bare"] = Bare
    document = WDL.load(str(HERE.parent / "wdl" / "episome.wdl"))
    values = WDL.values_from_json(
        json.loads(Path(inputs).read_text()),
        document.workflow.available_inputs,
        document.workflow.required_inputs,
    )
    _, outputs = WDL.runtime.run(cfg, document.workflow, values, run_dir=place)
    print(json.dumps(WDL.values_to_json(outputs)))


if __name__ == "__main__":
    main()
