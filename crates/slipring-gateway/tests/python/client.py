"""Calls the workers of a gateway with nothing but what gRPC's tools have made of the `.proto`."""

import sys

import grpc
import workers_pb2
import workers_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

LONG = 60  # Passes only if something hangs.

with grpc.insecure_channel(sys.argv[1]) as channel:
    workers = workers_pb2_grpc.WorkersStub(channel)

    request = workers_pb2.Request(role="shout", name="shout", payload=b"hello")
    reply, call = workers.Call.with_call(request, timeout=LONG)
    assert reply.payload.endswith(b": HELLO"), reply

    # A trace crosses; a malformed one is ignored.
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    for parent in (trace, "nonsense"):
        metadata = [("traceparent", parent), ("tracestate", "vendor=1")]
        workers.Call(request, timeout=LONG, metadata=metadata)

    # Its deadline passes while the worker is at it.
    try:
        workers.Call(request, timeout=0.02)
        raise AssertionError("it takes 100 ms")
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, error

    # A status says roughly what went wrong, the trailer all of it.
    request.name = "no-such-kind"
    try:
        workers.Call(request, timeout=LONG)
        raise AssertionError("there is no such kind")
    except grpc.RpcError as error:
        trailers = dict(error.trailing_metadata())
        report = workers_pb2.ErrorReport.FromString(trailers["slipring-error-bin"])
        assert report.kind == workers_pb2.ERROR_KIND_HANDLER_FAILED, report
        assert report.failure.message in error.details(), (report, error)

    status = next(workers.Watch(workers_pb2.WatchRequest(), timeout=LONG))
    assert [(role.role, role.places) for role in status.roles] == [("shout", 1)], status

    health = health_pb2_grpc.HealthStub(channel)
    service = health_pb2.HealthCheckRequest(service="slipring.v1.Workers")
    assert health.Check(service, timeout=LONG).status == health_pb2.HealthCheckResponse.SERVING

    services = ProtoReflectionDescriptorDatabase(channel).get_services()
    assert "slipring.v1.Workers" in services, services
