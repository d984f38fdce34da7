//! Builds the XDP steering program, and says in one line what is missing for it.

use std::env;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

fn main() -> ExitCode {
    println!("cargo:rerun-if-changed=xdp");
    println!("cargo:rerun-if-env-changed=CLANG");
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(line) => {
            eprintln!("gate64-dataplane: {line}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), String> {
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".to_owned());
    // xsk-rs builds libxdp, which needs all three, and says so in a less readable way.
    runs(&clang).map_err(|_| missing(&clang, "clang"))?;
    runs("m4").map_err(|_| missing("m4", "m4"))?;
    includes(&clang, "gelf.h").map_err(|_| missing("gelf.h", "libelf-dev"))?;
    compile(&clang, Path::new("xdp/steer.bpf.c"), "steer.bpf.o")
}

fn missing(what: &str, package: &str) -> String {
    format!("{what} was not found: install the Debian package {package} (or run `make deps`)")
}

fn runs(program: &str) -> Result<(), String> {
    let status = Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .status();
    match status {
        Ok(status) if status.success() => Ok(()),
        other => Err(format!("{other:?}")),
    }
}

/// Whether the C compiler finds a header.
fn includes(clang: &str, header: &str) -> Result<(), String> {
    let mut child = Command::new(clang)
        .args(["-E", "-x", "c", "-", "-o", "/dev/null"])
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| error.to_string())?;
    if let Some(mut stdin) = child.stdin.take() {
        writeln!(stdin, "#include <{header}>").map_err(|error| error.to_string())?;
    }
    let status = child.wait().map_err(|error| error.to_string())?;
    status.success().then_some(()).ok_or_else(String::new)
}

fn compile(clang: &str, source: &Path, object: &str) -> Result<(), String> {
    let out = PathBuf::from(env::var("OUT_DIR").map_err(|error| error.to_string())?).join(object);
    // -g: the maps are described by BTF, which is made from debugging information.
    let status = Command::new(clang)
        .args(["-target", "bpf", "-std=gnu11", "-O2", "-g"])
        .args(["-Wall", "-Wextra", "-Werror", "-c"])
        .arg(source)
        .arg("-o")
        .arg(&out)
        .status()
        .map_err(|error| format!("cannot run {clang}: {error}"))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("{clang} cannot compile {}", source.display()))
    }
}
