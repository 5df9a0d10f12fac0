"""`ray up cluster.yaml` against an EC2 that is not there (moto), as far as the head's ssh, and `ray down`.

Run by `make cluster-test`, apart from other processes and without a route: nothing outside is ever asked.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from moto.server import ThreadedMotoServer

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDER = Path(os.environ["LOOKBEYOND_LAB"])
CLUSTER = yaml.safe_load((REPOSITORY / "cluster.yaml").read_text())
REGION = CLUSTER["provider"]["region"]
WAITS_AT = "Waiting for SSH to become available"


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    """What a laptop has: credentials, an empty home folder with the cluster's token, and AWS at another address."""
    (FOLDER / "home/.ray").mkdir(parents=True)
    (FOLDER / "home/.ray/auth_token").write_text("a-token-of-this-lab")
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    own = {
        "HOME": str(FOLDER / "home"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_EC2_METADATA_DISABLED": "true",
        # Policies that Ray gives to the head's role.
        "MOTO_IAM_LOAD_MANAGED_POLICIES": "true",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    os.environ |= own
    yield dict(os.environ)
    server.stop()


def machines() -> list[dict[str, Any]]:
    """What EC2 knows of that is not gone."""
    reservations = boto3.client("ec2", region_name=REGION).describe_instances()["Reservations"]
    found = [machine for reservation in reservations for machine in reservation["Instances"]]
    return [machine for machine in found if machine["State"]["Name"] in ("pending", "running")]


@pytest.mark.timeout(300)
def test_the_head_comes_up_with_what_the_file_says_and_goes_again(environment: dict[str, str]) -> None:
    log = FOLDER / "up.log"
    with log.open("w") as file:
        up = subprocess.Popen(
            ["ray", "up", "cluster.yaml", "--yes", "--no-config-cache"],
            cwd=REPOSITORY,
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
        deadline = time.monotonic() + 120
        while up.poll() is None and WAITS_AT not in log.read_text() and time.monotonic() < deadline:
            time.sleep(0.5)
        up.kill()
        up.wait()
    assert WAITS_AT in log.read_text(), log.read_text()
    (head,) = machines()
    told = CLUSTER["available_node_types"]["head"]["node_config"]
    tags = {tag["Key"]: tag["Value"] for tag in head["Tags"]}
    assert (tags["ray-node-type"], tags["ray-cluster-name"]) == ("head", "lookbeyond")
    assert head["InstanceType"] == told["InstanceType"]
    assert head["ImageId"] == told["ImageId"]
    assert head["IamInstanceProfile"]["Arn"].endswith("/ray-autoscaler-v1")
    groups = boto3.client("ec2", region_name=REGION).describe_security_groups(
        GroupIds=[group["GroupId"] for group in head["SecurityGroups"]]
    )["SecurityGroups"]
    open_ports = {
        rule.get("FromPort")
        for group in groups
        for rule in group["IpPermissions"]
        if any(network["CidrIp"] == "0.0.0.0/0" for network in rule["IpRanges"])
    }
    assert open_ports == {22}, "from outside ssh alone"
    down = subprocess.run(
        ["ray", "down", "cluster.yaml", "--yes"],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert down.returncode == 0, down.stdout + down.stderr
    assert machines() == []


@pytest.mark.parametrize("name", [name for name in CLUSTER["available_node_types"] if name != "head"])
def test_ec2_takes_every_kind_of_worker(environment: dict[str, str], name: str) -> None:
    """As the head would start it: spot, with its disk; what a field is called is checked by boto3."""
    del environment
    config = CLUSTER["available_node_types"][name]["node_config"]
    ec2 = boto3.client("ec2", region_name=REGION)
    subnet = ec2.describe_subnets()["Subnets"][0]["SubnetId"]
    started = ec2.run_instances(**config, SubnetId=subnet, MinCount=1, MaxCount=1)["Instances"][0]
    assert started["InstanceType"] == config["InstanceType"]
    volumes = ec2.describe_volumes(
        Filters=[{"Name": "attachment.instance-id", "Values": [started["InstanceId"]]}],
    )["Volumes"]
    assert [(volume["Size"], volume["Encrypted"]) for volume in volumes] == [(200, True)]
    ec2.terminate_instances(InstanceIds=[started["InstanceId"]])
