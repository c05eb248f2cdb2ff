//! RUN: what is executed, with which environment.

use std::collections::BTreeMap;

use kiln_dockerfile::Statement;
use kiln_dockerfile::instruction::{Network as Asked, Run, RunScript, Security};
use kiln_oci::Platform;

use super::lower::{DEFAULT_PATH, Lowering};
use super::mounts::not_allowed;
use super::stage::{StageState, clean, hidden_proxies, unsupported};
use crate::error::{Place, Result};
use crate::graph::{ExecOp, Network, Op};
use crate::request::{Entitlement, NetworkChoice};

/// Where the scripts of heredocs lie while they run.
const SCRIPTS: &str = "/dev/pipes";

/// The host name that a command sees, as in BuildKit.
const HOSTNAME: &str = "buildkitsandbox";

/// Adds the vertex of a RUN.
pub(super) fn run(
    lowering: &mut Lowering<'_>,
    state: &mut StageState,
    statement: &Statement,
    run: &Run,
    index: usize,
    place: &Place,
) -> Result<()> {
    if let Some(device) = run.devices.first() {
        return Err(unsupported("RUN --device", &lowering.source.place(device.span)));
    }
    let insecure = run.security.as_ref().filter(|s| s.value == Security::Insecure);
    if let Some(security) = insecure
        && !lowering.request.allow.contains(&Entitlement::SecurityInsecure)
    {
        let place = lowering.source.place(security.span);
        return Err(not_allowed("RUN --security=insecure", "security.insecure", place));
    }
    let mounts = super::mounts::lower(lowering, state, run, index)?;
    let network = network(lowering, run)?;
    let mut scripts = BTreeMap::new();
    let shell = |text: String| {
        let mut args = state.shell();
        args.push(text);
        args
    };
    let args = match run.script() {
        RunScript::Exec(words) => words.iter().map(|w| w.value.clone()).collect(),
        RunScript::Shell(text) => shell(text.to_owned()),
        RunScript::Body(text) | RunScript::Rebuilt(text) => shell(text),
        RunScript::File { name, body } => {
            let path = format!("{SCRIPTS}/{name}");
            scripts.insert(path.clone(), body);
            shell(path)
        }
    };
    let mut env = state.vars.pairs().to_vec();
    if state.vars.get("PATH").is_none() {
        env.push(("PATH".to_owned(), DEFAULT_PATH.to_owned()));
    }
    env.extend(mounts.env);
    let cwd = clean(&state.config.config.working_dir);
    let hidden_env = hidden_proxies(lowering, state);
    let history = history(state, &args);
    let user = state.config.config.user.clone();
    let hostname = lowering.request.build_args.get("BUILDKIT_SANDBOX_HOSTNAME");
    let hostname = hostname.filter(|h| !h.is_empty()).map_or(HOSTNAME, String::as_str).to_owned();
    let platform = &state.platform;
    let op = ExecOp {
        args,
        env,
        hidden_env,
        cwd,
        user,
        hostname,
        network,
        platform: Platform::new(&platform.os, &platform.architecture, platform.variant.as_deref()),
        scripts,
        mounts: mounts.mounts,
        insecure: insecure.is_some(),
    };
    state.step(lowering, Op::Exec(Box::new(op)), statement, history, place);
    Ok(())
}

/// Returns the network of a RUN: its own word, or that of the build.
fn network(lowering: &Lowering<'_>, run: &Run) -> Result<Network> {
    let request = lowering.request;
    let build = match request.run.network {
        NetworkChoice::Default | NetworkChoice::Host => Network::Host,
        NetworkChoice::None => Network::None,
        NetworkChoice::Proxy => Network::Proxy,
    };
    let Some(asked) = &run.network else { return Ok(build) };
    match asked.value {
        Asked::Default => Ok(build),
        Asked::None => Ok(Network::None),
        // A build that was given less must not be talked out of it by a file.
        Asked::Host if build != Network::Host && !request.allow.contains(&Entitlement::NetworkHost) => {
            Err(not_allowed("RUN --network=host", "network.host", lowering.source.place(asked.span)))
        }
        Asked::Host => Ok(Network::Host),
    }
}

/// Returns the history of a RUN in Docker's form: `RUN |1 A=b /bin/sh -c make`.
fn history(state: &StageState, args: &[String]) -> String {
    let declared: Vec<String> = state
        .args
        .pairs()
        .iter()
        .map(|(name, _)| format!("{name}={}", state.vars.get(name).unwrap_or_default()))
        .collect();
    let prefix = if declared.is_empty() {
        String::new()
    } else {
        format!("|{} {} ", declared.len(), declared.join(" "))
    };
    format!("RUN {prefix}{}", args.join(" "))
}
