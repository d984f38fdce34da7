//! The `gate64` binary: command line, configuration, and everything beside the workers.

mod alarm;
mod api;
mod bench;
mod check;
mod cli;
mod client;
mod config;
mod exit;
mod lab;
mod lookup;
mod machine;
mod metrics;
mod netlink;
mod replay;
mod run;
mod share;
mod state;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use cli::{Cli, Command};

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Run(args) => run::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Replay(args) => replay::run(&args),
        Command::Status(args) => client::status(&args),
        Command::Show(args) => client::show(&args),
        Command::Clear(args) => client::clear(&args),
        Command::Explain(args) => client::explain(&args),
        Command::Lookup(args) => lookup::run(&args),
        Command::Top(args) => client::top(&args),
        Command::Lab(args) => lab::run(args),
        Command::Share(args) => share::run(&args),
        Command::Bench(args) => bench::run(&args),
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
