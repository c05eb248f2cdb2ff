//! What a registry says about a failure: its status, its list of errors, or a line of whatever it sent.

use serde::Deserialize;

/// One entry of the `errors` array that a registry sends with a failure.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct Fault {
    /// Code of the distribution specification, such as `MANIFEST_UNKNOWN`.
    pub code: String,
    /// What the registry says about it.
    pub message: String,
    /// Anything else, kept as JSON.
    pub detail: serde_json::Value,
}

pub(super) fn status_text(status: u16) -> String {
    let reason = hyper::StatusCode::from_u16(status).ok().and_then(|s| s.canonical_reason());
    reason.map_or_else(|| status.to_string(), |reason| format!("{status} {reason}"))
}

pub(super) fn faults_text(faults: &[Fault], body: &str) -> String {
    let one = |fault: &Fault| match (fault.code.as_str(), fault.message.as_str()) {
        ("", message) => message.to_owned(),
        (code, "") => code.to_owned(),
        (code, message) => format!("{code}: {message}"),
    };
    let list: Vec<String> = faults.iter().map(one).filter(|text| !text.is_empty()).collect();
    match (list.is_empty(), body) {
        (false, _) => format!(" ({})", list.join("; ")),
        (true, "") => String::new(),
        (true, body) => format!(" ({body})"),
    }
}

/// Reads the `errors` of a failure's body, and a line for people where there are none.
pub(crate) fn parse_faults(body: &[u8]) -> (Vec<Fault>, String) {
    const LINE: usize = 200;
    #[derive(Deserialize)]
    struct Body {
        errors: Vec<Fault>,
    }
    #[derive(Deserialize)]
    struct OAuth {
        error: String,
        #[serde(default)]
        error_description: String,
    }
    if let Ok(Body { errors }) = serde_json::from_slice(body) {
        return (errors, String::new());
    }
    if let Ok(OAuth { error, error_description }) = serde_json::from_slice(body) {
        return (vec![Fault { code: error, message: error_description, ..Fault::default() }], String::new());
    }
    let text = String::from_utf8_lossy(body);
    // A page of HTML says nothing that the status does not say better.
    let line = text.lines().map(str::trim).find(|l| !l.is_empty()).filter(|l| !l.starts_with('<'));
    let plain = |c: &char| !c.is_control();
    (Vec::new(), line.unwrap_or_default().chars().filter(plain).take(LINE).collect())
}
