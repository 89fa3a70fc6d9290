"""What `byoi-agent --check` loads."""

import subprocess
import sys


def test_checking_loads_nothing_that_deploys():
    code = (
        "import sys; import agent.service.config.check; "
        "print(*(m for m in sys.modules if m.startswith(('agent.host', 'agent.transfer', 'agent.stages', 'aiohttp'))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # The operator's keys are looked at, like every other file that the configuration leads to.
    assert set(done.stdout.split()) == {"agent.host", "agent.host.trusted_keys"}
