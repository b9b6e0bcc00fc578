"""The history and the judgement of the mesh document as messages."""

import json
from collections.abc import Iterable
from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp

from agentmesh.config.v1 import config_pb2, config_service_pb2
from mesh.config.document import LoadedDocument
from mesh.config.document.changes import ValueChange
from mesh.config.document.printing import masked_origins
from mesh.config.history import Head, Layer, Origin, Refusal, Revision, Status
from mesh.errors import Fault
from mesh.xds.explain import ExplainedCall
from mesh.xds.rollout import ResourceChange
from services.control_plane.config_sources import RefusedLayer

_STATUS = {
    Status.STAGED: config_pb2.REVISION_STATUS_STAGED,
    Status.ACTIVE: config_pb2.REVISION_STATUS_ACTIVE,
    Status.SUPERSEDED: config_pb2.REVISION_STATUS_SUPERSEDED,
    Status.ROLLED_BACK: config_pb2.REVISION_STATUS_ROLLED_BACK,
}


def revision_to_proto(revision: Revision, head: Head) -> config_pb2.Revision:
    """A revision with the status that it has by `head`."""
    return config_pb2.Revision(
        number=revision.number,
        create_time=_timestamp(revision.create_time),
        author=revision.draft.author,
        message=revision.draft.message,
        status=_STATUS[head.status_of(revision)],
        cause=revision.cause,
        refusals=[_refusal_to_proto(refusal) for refusal in revision.refusals],
        restores=revision.draft.restores,
        document_version=revision.draft.document_version,
    )


def _refusal_to_proto(refusal: Refusal) -> config_pb2.Refusal:
    return config_pb2.Refusal(
        node_id=refusal.node_id,
        type=refusal.type,
        resources=refusal.resources,
        message=refusal.message,
        origin=fault_to_proto(refusal.origin) if refusal.origin is not None else None,
    )


def fault_to_proto(fault: Origin | Fault) -> config_pb2.Fault:
    """A place with what is wrong there."""
    return config_pb2.Fault(source=fault.source, line=fault.line, field=fault.field, reason=fault.reason)


def layers_to_proto(layers: Iterable[Layer]) -> list[config_pb2.Layer]:
    """Layers as they were."""
    return [config_pb2.Layer(name=layer.name, source=layer.source, document=layer.text) for layer in layers]


def origins_to_proto(loaded: LoadedDocument) -> list[config_pb2.Origin]:
    """Which layer set each value; secrets are masked."""
    return [
        config_pb2.Origin(
            field=field,
            value=json.dumps(value, ensure_ascii=False),
            layer=origin.layer,
            source=origin.source,
            line=origin.line,
        )
        for field, value, origin in masked_origins(loaded)
    ]


def changes_to_proto(changes: Iterable[ValueChange]) -> list[config_pb2.ValueChange]:
    """Changes of the document."""
    return [config_pb2.ValueChange(field=each.field, before=each.before, after=each.after) for each in changes]


def resources_to_proto(changes: Iterable[ResourceChange]) -> list[config_pb2.ResourceChange]:
    """Changes of resources."""
    return [
        config_pb2.ResourceChange(
            node_id=each.node_id, type=each.type, name=each.name, before=each.before, after=each.after
        )
        for each in changes
    ]


def refused_to_proto(layers: Iterable[RefusedLayer]) -> list[config_pb2.RefusedLayer]:
    """Layers whose newest content is not in force."""
    return [
        config_pb2.RefusedLayer(
            name=layer.name, source=layer.source, reason=layer.reason, refuse_time=_timestamp(layer.since)
        )
        for layer in sorted(layers, key=lambda layer: layer.name)
    ]


def explained_to_proto(call: ExplainedCall) -> config_service_pb2.ExplainCallResponse:
    """What becomes of a call."""
    return config_service_pb2.ExplainCallResponse(
        allowed=call.is_allowed,
        verdict=call.verdict,
        route=call.route,
        targets=[
            config_service_pb2.ExplainedTarget(
                target=each.target,
                cluster=each.cluster,
                percent=each.percent,
                role=each.role,
                endpoints=each.endpoints,
                healthy=each.healthy,
            )
            for each in call.targets
        ],
        intention=call.intention,
        policy=call.policy,
    )


def _timestamp(moment: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp
