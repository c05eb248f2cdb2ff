//! The proxy of a command: who may be asked, what the command is told of it, and what is written down.

use std::ffi::OsString;
use std::net::TcpListener;

use kiln_remote::proxy::{Fetch, serve};
use kiln_sandbox::PROXY_ADDRESS;

use crate::engine::Engine;
use crate::progress::{Event, StepId, Stream};

/// Variables by which programs find a proxy; there is no agreement about their case.
const VARIABLES: [&str; 6] =
    ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"];
/// Variables by which they know what to ask directly.
const EXCEPTIONS: [&str; 2] = ["no_proxy", "NO_PROXY"];

/// Puts the proxy into the environment of a command, in the place of any other. It is in no image and in no key.
pub(super) fn announce(env: &mut Vec<(OsString, OsString)>) {
    let address = format!("http://{PROXY_ADDRESS}");
    let own = VARIABLES.map(|name| (name, address.as_str()));
    let own = own.into_iter().chain(EXCEPTIONS.map(|name| (name, "localhost,127.0.0.1,::1")));
    for (name, value) in own {
        env.retain(|(known, _)| known != name);
        env.push((name.into(), value.into()));
    }
}

/// Serves a command until `listener` is shut down, and tells what it fetched.
pub(super) fn run(engine: &Engine, step: StepId, listener: &TcpListener) {
    serve(listener, &engine.run.allow_hosts, &|fetch| told(engine, step, fetch));
}

fn told(engine: &Engine, step: StepId, fetch: Fetch) {
    let Fetch { method, target, status, sent, received, refused } = fetch;
    let target = engine.grants.mask.text(&target);
    if let Some(reason) = &refused {
        let hint = if status == 403 { "; allow it with `--allow-host`" } else { "" };
        let text = format!("kiln: {method} {target}: {reason}{hint}\n");
        engine.sink.event(Event::Output { id: step, stream: Stream::Stderr, text });
    }
    engine.sink.event(Event::Fetched { id: step, method, target, status, sent, received });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_proxy_takes_the_place_of_any_other() {
        let pair = |name: &str, value: &str| (OsString::from(name), OsString::from(value));
        let mut env = vec![pair("A", "1"), pair("HTTP_PROXY", "http://corp:8080")];
        announce(&mut env);
        assert_eq!(env[0], pair("A", "1"));
        let proxies: Vec<_> = env.iter().filter(|(name, _)| name == "HTTP_PROXY").collect();
        assert_eq!(proxies, [&pair("HTTP_PROXY", "http://127.0.0.1:3128")]);
    }
}
