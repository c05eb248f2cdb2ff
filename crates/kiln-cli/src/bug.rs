//! Panics are mistakes in kiln, and are reported as such.

use std::io::Write as _;
use std::panic::PanicHookInfo;

use crate::exit::Exit;
use crate::report::REPORT_REQUEST;
use crate::text::printable;

/// Makes every panic, on any thread, end the process with a request to report it.
pub(crate) fn report_panics() {
    std::panic::set_hook(Box::new(|info| {
        let _ = std::io::stderr().write_all(text(info).as_bytes());
        #[expect(clippy::exit, reason = "a panic on any thread ends the process, with the code for bugs")]
        std::process::exit(Exit::Bug.code().into());
    }));
}

fn text(info: &PanicHookInfo<'_>) -> String {
    let payload = info.payload();
    let message = payload.downcast_ref::<&str>().copied();
    let message = message.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let message = message.unwrap_or("a panic without a message");
    let place = info.location().map(|l| format!("  --> {}:{}\n", l.file(), l.line())).unwrap_or_default();
    format!(
        "error: {}\n{place}\
         hint: {REPORT_REQUEST}\n",
        printable(&message.replace('\n', " "))
    )
}
