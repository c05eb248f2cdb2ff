//! A trace in the JSON form of OpenTelemetry's protocol, one object in one line: what the collector's file exporter
//! writes and its `otlpjsonfile` receiver reads, and what can be posted to `/v1/traces` as it is.
//!
//! Ids are hexadecimal and 64-bit numbers are strings (opentelemetry-proto, "JSON Protobuf Encoding").

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::time::Duration;

use serde_json::{Value, json};

use super::Span;

/// `SPAN_KIND_INTERNAL`: nothing remote waits for it.
const INTERNAL: u32 = 1;
/// `STATUS_CODE_OK`.
const OK: u32 = 1;
/// `STATUS_CODE_ERROR`.
const ERROR: u32 = 2;

/// The span that a build is a part of: `TRACEPARENT`, in the form of W3C Trace Context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Parent {
    trace: String,
    span: String,
}

impl Parent {
    /// Reads `VERSION-TRACE-SPAN-FLAGS`; what is malformed is as good as absent, as the specification demands.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut fields = text.trim().split('-');
        let mut hex = |length: usize| {
            let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
            fields.next().filter(|field| field.len() == length && field.bytes().all(digit))
        };
        let (version, trace, span, _flags) = (hex(2)?, hex(32)?, hex(16)?, hex(2)?);
        let zero = |id: &str| id.bytes().all(|b| b == b'0');
        // Version 0 has four fields; later ones may have more, and `ff` is none.
        let whole = version != "ff" && (version != "00" || fields.next().is_none());
        (whole && !zero(trace) && !zero(span))
            .then(|| Self { trace: trace.to_owned(), span: span.to_owned() })
    }
}

/// Returns the whole file; `clock` is the beginning of the build in nanoseconds since 1970.
pub(super) fn document(spans: &[Span], clock: u128, parent: Option<&Parent>) -> Value {
    let trace = parent.map_or_else(|| format!("{}{}", id(), id()), |parent| parent.trace.clone());
    let ids: Vec<String> = spans.iter().map(|_| id()).collect();
    let nanoseconds = |time: Duration| (clock + time.as_nanos()).to_string();
    let spans = spans.iter().zip(&ids).map(|(span, id)| {
        let above = span.parent.map(|index| &ids[index]).or(parent.map(|parent| &parent.span));
        let attributes =
            span.attributes.iter().map(|(name, value)| attribute(&format!("kiln.{name}"), value));
        let step = span.step.map(|step| attribute("kiln.step", &json!(step)));
        let status = match &span.error {
            Some(message) => json!({ "code": ERROR, "message": message }),
            None => json!({ "code": OK }),
        };
        let mut out = json!({
            "traceId": trace,
            "spanId": id,
            "name": span.name,
            "kind": INTERNAL,
            "startTimeUnixNano": nanoseconds(span.start),
            "endTimeUnixNano": nanoseconds(span.end),
            "attributes": attributes.chain(step).collect::<Vec<_>>(),
            "status": status,
        });
        if let Some(above) = above {
            out["parentSpanId"] = json!(above);
        }
        out
    });
    let version = env!("CARGO_PKG_VERSION");
    let resource = [attribute("service.name", &json!("kiln")), attribute("service.version", &json!(version))];
    json!({ "resourceSpans": [{
        "resource": { "attributes": resource },
        "scopeSpans": [{
            "scope": { "name": "kiln", "version": version },
            "spans": spans.collect::<Vec<_>>(),
        }],
    }] })
}

fn attribute(name: &str, value: &Value) -> Value {
    let value = match value {
        Value::Bool(value) => json!({ "boolValue": value }),
        Value::Number(value) => json!({ "intValue": value.to_string() }),
        Value::String(value) => json!({ "stringValue": value }),
        other => json!({ "stringValue": other.to_string() }),
    };
    json!({ "key": name, "value": value })
}

/// Returns 64 random bits: the keys of the standard library's hash maps are, and nothing here needs better ones.
fn id() -> String {
    // All zeroes would be no id.
    format!("{:016x}", RandomState::new().build_hasher().finish().max(1))
}
