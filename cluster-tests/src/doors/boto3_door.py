"""Puts what it is told to on standard input, one JSON object a line, and says on standard output what became of it.

In:  {"at": 0, "stream": "s", "records": [{"key": "k", "data": "d"}]}   `at` names one of the endpoints in the arguments
Out: {"results": [{"shard": "...", "number": "..."} or {"code": "...", "message": "..."}]}
     or {"error": "...", "status": 500 or null}
"""

import json
import sys

import boto3
import botocore.config
import botocore.exceptions

endpoints = sys.argv[2:]
config = botocore.config.Config(
    region_name="us-east-1",
    retries={"max_attempts": int(sys.argv[1]), "mode": "standard"},
    connect_timeout=2,
    read_timeout=15,
)
clients = {}


def client(at):
    if at not in clients:
        clients[at] = boto3.client(
            "kinesis",
            endpoint_url=endpoints[at],
            aws_access_key_id="test",
            aws_secret_access_key="test",
            config=config,
        )
    return clients[at]


def put(at, stream, records):
    if len(records) == 1:
        answer = client(at).put_record(
            StreamName=stream,
            PartitionKey=records[0]["key"],
            Data=records[0]["data"].encode(),
        )
        return [answer]
    entries = [{"PartitionKey": r["key"], "Data": r["data"].encode()} for r in records]
    return client(at).put_records(StreamName=stream, Records=entries)["Records"]


def result(entry):
    if "SequenceNumber" in entry:
        return {"shard": entry["ShardId"], "number": entry["SequenceNumber"]}
    return {"code": entry.get("ErrorCode"), "message": entry.get("ErrorMessage")}


print(json.dumps({"ready": boto3.__version__}), flush=True)
for line in sys.stdin:
    order = json.loads(line)
    try:
        entries = put(order["at"], order["stream"], order["records"])
        said = {"results": [result(entry) for entry in entries]}
    except botocore.exceptions.ClientError as error:
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        said = {"error": str(error), "status": status}
    except botocore.exceptions.BotoCoreError as error:
        said = {"error": f"{type(error).__name__}: {error}", "status": None}
    print(json.dumps(said), flush=True)
