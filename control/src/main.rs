//! The `gate64` binary: command line, configuration, and everything beside the workers.

mod check;
mod cli;
mod config;
mod exit;
mod lab;
mod machine;
mod netlink;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use cli::{Cli, Command};

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Check(args) => check::run(&args),
        Command::Lab(args) => lab::run(args),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "gate64", &mut std::io::stdout());
            ExitCode::SUCCESS
        }
        Command::Man => print_man(),
    }
}

fn print_man() -> ExitCode {
    match clap_mangen::Man::new(Cli::command()).render(&mut std::io::stdout()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => exit::Failure::Failed(error.to_string()).report(),
    }
}
