"""Submit a run to a Ray cluster as a job, follow its log, and end with its exit code. Run it in a checkout of raydet.

    RAY_AUTH_MODE=token python examples/submit_job.py http://127.0.0.1:8265 demo_classification \
        --run.storage_path /shared/runs

The same by hand: ray job submit --working-dir . -- python -m raydet fit demo_classification --run.storage_path ...
Paths must be absolute: a job works in a temporary copy of this folder.
"""

import argparse
import asyncio
import shlex
import sys

from ray.job_submission import JobSubmissionClient

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("dashboard", help="address of the cluster's dashboard")
parser.add_argument("recipe")
options, settings = parser.parse_known_args()

client = JobSubmissionClient(options.dashboard)
command = shlex.join(["python", "-m", "raydet", "fit", options.recipe, *settings])
job = client.submit_job(entrypoint=command, runtime_env={"working_dir": ".", "excludes": [".venv", "runs", ".git"]})
print(f"submitted {job}: {command}", flush=True)


async def follow() -> None:
    """Print the job's log until it ends."""
    async for lines in client.tail_job_logs(job):
        print(lines, end="", flush=True)


asyncio.run(follow())
info = client.get_job_info(job)
print(f"{job} {info.status.value.lower()}")
sys.exit(info.driver_exit_code or 0)
