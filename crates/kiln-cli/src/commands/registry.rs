//! `kiln registry serve`.

use std::io::ErrorKind;
use std::sync::mpsc;

use kiln::Error;
use kiln::remote::server::{Registry, RegistryConfig, Running, StartError, Storage};

use crate::args::ServeArgs;
use crate::exit::Exit;
use crate::failure::Outcome;
use crate::signals::Signals;
use crate::stdout;

/// Serves a registry until a signal comes, which is its proper end.
pub(super) fn serve(args: &ServeArgs) -> Outcome<Exit> {
    let (stop, stopped) = mpsc::channel();
    let _signals = Signals::watch(move || {
        // The other end is gone only when the registry is.
        let _ = stop.send(());
    })?;
    let storage = args.dir.clone().map_or(Storage::Memory, Storage::Directory);
    let config = RegistryConfig { listen: args.listen, storage, ..RegistryConfig::default() };
    let running: Running = Registry::start(config).map_err(failed)?;
    stdout::print(&format!("{}\n", running.host()))?;
    // An error means that the watching thread is gone, and with it every way to stop.
    let _ = stopped.recv();
    Ok(Exit::Success)
}

fn failed(error: StartError) -> Error {
    let hint = match &error {
        StartError::Listen { source, .. } if source.kind() == ErrorKind::AddrInUse => {
            Some("`--listen 127.0.0.1:0` takes a free port")
        }
        StartError::Storage { .. } => Some("name another directory with `--dir`"),
        _ => None,
    };
    let mut out = Error::environment("cannot start the registry").because(error);
    out.hints.extend(hint.map(str::to_owned));
    out
}
