//! `gate64 lab`: an IPv6-only client, the gateway and an IPv4-only Internet as network namespaces
//! of this machine, with real traffic through AF_XDP and DNS64. [`topology`] draws the network,
//! [`Lab`] makes and removes it, [`checks`] is `gate64 lab test`, [`demo`] and [`view`] show it.

mod checks;
mod demo;
mod error;
mod interrupt;
mod metrics;
mod netns;
mod process;
mod serve;
mod state;
mod tool;
mod topology;
mod view;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use error::LabError;
use interrupt::Interrupt;
use process::Process;
use serve::Role;
use topology::Namespace;

/// Time that the kernel gets to notice that links are up.
const CARRIER_LIMIT: Duration = Duration::from_secs(20);

/// The embedded network: an IPv6-only client, the gateway and an IPv4-only Internet
#[derive(Debug, clap::Args)]
pub struct LabArgs {
    #[command(subcommand)]
    command: Option<LabCommand>,
    /// Workers of the gateway, and queues of its interfaces
    #[arg(long, global = true, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=16))]
    workers: u16,
}

#[derive(Debug, clap::Subcommand)]
enum LabCommand {
    /// Bring the network up and leave it running
    Up,
    /// Remove the network and everything in it
    Down,
    /// Run a command in one of the namespaces; a shell without a command
    Exec {
        /// Where
        #[arg(value_parser = parse_namespace)]
        namespace: Namespace,
        /// The command and its arguments, after `--`
        #[arg(last = true)]
        command: Vec<OsString>,
    },
    /// Check the whole system with the machine's own programs, then remove everything
    Test,
    /// Serve inside a namespace; the lab starts this itself
    #[command(hide = true)]
    Serve {
        /// Which servers
        role: Role,
    },
}

/// `client` as well as `g64-client`.
fn parse_namespace(text: &str) -> Result<Namespace, String> {
    let short = text.strip_prefix("g64-").unwrap_or(text);
    <Namespace as clap::ValueEnum>::from_str(short, false).map_err(|_| {
        let names = Namespace::ALL.map(|known| known.name().trim_start_matches("g64-"));
        format!("the lab has the namespaces {}", names.join(", "))
    })
}

/// Runs the `lab` subcommand. To be called on a process's only thread: `lab exec` gives the
/// process a mount namespace of its own.
pub fn run(args: LabArgs) -> ExitCode {
    let done = match args.command {
        None => demonstrate(args.workers),
        Some(LabCommand::Up) => up(args.workers),
        Some(LabCommand::Down) => down(),
        Some(LabCommand::Exec { namespace, command }) => exec(namespace, command),
        Some(LabCommand::Test) => test(args.workers),
        Some(LabCommand::Serve { role }) => serve::run(role).map(|()| ExitCode::SUCCESS),
    };
    done.unwrap_or_else(|error| {
        eprintln!("gate64 lab: {error}");
        ExitCode::from(error.exit_code())
    })
}

fn up(workers: u16) -> Result<ExitCode, LabError> {
    let _lock = prepare()?;
    let interrupt = Interrupt::install()?;
    let lab = Lab::up(workers, &interrupt)?;
    lab.leave();
    println!("The lab is up. Try:");
    println!("  gate64 lab exec client -- curl http://v4only.lab.test/");
    println!(
        "  gate64 lab exec client            (a shell; also gateway, internet, router1, router2, ipv6)"
    );
    println!("  gate64 lab down");
    Ok(ExitCode::SUCCESS)
}

fn down() -> Result<ExitCode, LabError> {
    require_root()?;
    let there = state::read().is_some() || Namespace::ALL.into_iter().any(netns::exists);
    remove(false)?;
    println!(
        "{}",
        if there {
            "The lab is removed."
        } else {
            "There was no lab."
        }
    );
    Ok(ExitCode::SUCCESS)
}

fn exec(namespace: Namespace, mut command: Vec<OsString>) -> Result<ExitCode, LabError> {
    require_root()?;
    if command.is_empty() {
        eprintln!("A shell in {}; `exit` leaves it.", namespace.name());
        command.push(std::env::var_os("SHELL").unwrap_or_else(|| "/bin/sh".into()));
    }
    Err(netns::exec(namespace, &command))
}

fn test(workers: u16) -> Result<ExitCode, LabError> {
    let _lock = prepare()?;
    let interrupt = Interrupt::install()?;
    let mut lab = Lab::up(workers, &interrupt)?;
    let outcome = checks::run(&mut lab, &interrupt);
    lab.down(!matches!(outcome, Ok(0) | Err(LabError::Interrupted)))?;
    match outcome? {
        0 => Ok(ExitCode::SUCCESS),
        _ => {
            println!(
                "The logs of the gateway and the servers are left in {}.",
                state::DIRECTORY
            );
            Ok(ExitCode::FAILURE)
        }
    }
}

fn demonstrate(workers: u16) -> Result<ExitCode, LabError> {
    let _lock = prepare()?;
    let interrupt = Interrupt::install()?;
    let mut lab = Lab::up(workers, &interrupt)?;
    let shown = demo::run(&mut lab, &interrupt).and_then(|()| view::run(&mut lab, &interrupt));
    // Another `gate64 lab down` has removed it all already.
    let removed_by_other = !state::is_ours();
    let failed = matches!(&shown, Err(error) if !matches!(error, LabError::Interrupted));
    lab.down(failed && !removed_by_other)?;
    match shown {
        _ if removed_by_other => println!("The lab was removed by another `gate64 lab down`."),
        Ok(()) | Err(LabError::Interrupted) => println!("The lab is removed."),
        Err(error) => return Err(error),
    }
    Ok(ExitCode::SUCCESS)
}

fn require_root() -> Result<(), LabError> {
    if nix::unistd::geteuid().is_root() {
        Ok(())
    } else {
        Err(LabError::NotRoot)
    }
}

/// What every way to bring the lab up begins with.
fn prepare() -> Result<state::Lock, LabError> {
    require_root()?;
    tool::find("ip")?;
    tool::find("ethtool")?;
    state::lock()
}

/// Removes whatever a lab has left, however it ended.
fn remove(keep_logs: bool) -> Result<(), LabError> {
    for namespace in Namespace::ALL {
        netns::remove(namespace)?;
    }
    state::clear(keep_logs)
}

/// A lab that is up. Dropped without [`Lab::leave`] or [`Lab::down`] (an early error), it removes
/// itself, but for its logs.
struct Lab {
    processes: Vec<Process>,
    settled: bool,
}

impl Lab {
    /// Removes what an earlier lab left, and makes everything anew.
    fn up(workers: u16, interrupt: &Interrupt) -> Result<Lab, LabError> {
        remove(false)?;
        state::begin(workers)?;
        let mut lab = Lab {
            processes: Vec::new(),
            settled: false,
        };
        write_files()?;
        build_network(workers)?;
        interrupt.check()?;
        lab.start_servers()?;
        interrupt.check()?;
        lab.start_gateway()?;
        Ok(lab)
    }

    fn start_servers(&mut self) -> Result<(), LabError> {
        let servers: [(&'static str, Namespace, &str, SocketAddr); 3] = [
            (
                "IPv4 servers",
                Namespace::Internet,
                "internet",
                (topology::SERVER, serve::HTTP_PORT).into(),
            ),
            (
                "IPv6 server",
                Namespace::Ipv6,
                "ipv6",
                (topology::NATIVE, serve::HTTP_PORT).into(),
            ),
            (
                "client servers",
                Namespace::Client,
                "client",
                (topology::CLIENT, topology::STATIC_TCP_PORT).into(),
            ),
        ];
        for (name, namespace, role, _) in servers {
            let args = ["lab", "serve", role].map(OsString::from);
            self.processes.push(Process::start(name, namespace, &args)?);
        }
        for (process, (_, _, _, address)) in self.processes.iter_mut().zip(servers) {
            process.wait_ready(|| process::accepts(address))?;
        }
        Ok(())
    }

    fn start_gateway(&mut self) -> Result<(), LabError> {
        let args = [
            OsString::from("run"),
            OsString::from("--config"),
            state::gateway_config().into_os_string(),
        ];
        let mut gateway = Process::start("gateway", Namespace::Gateway, &args)?;
        let ready = gateway.wait_ready(|| process::http_get(metrics::ADDRESS, "/readyz").map(drop));
        self.processes.push(gateway);
        ready
    }

    /// An error if one of the lab's processes has ended.
    fn check(&mut self) -> Result<(), LabError> {
        self.processes.iter_mut().try_for_each(Process::check)
    }

    /// Leaves everything running when this process ends.
    fn leave(mut self) {
        self.settled = true;
    }

    /// Removes everything; the logs stay if asked for.
    fn down(mut self, keep_logs: bool) -> Result<(), LabError> {
        self.settled = true;
        self.stop(keep_logs)
    }

    fn stop(&mut self, keep_logs: bool) -> Result<(), LabError> {
        // The gateway was started last and stops first.
        for process in self.processes.iter_mut().rev() {
            process.stop();
        }
        remove(keep_logs)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.settled {
            return;
        }
        if let Err(error) = self.stop(true) {
            eprintln!("gate64 lab: while removing the lab: {error}");
        }
    }
}

fn write_files() -> Result<(), LabError> {
    state::write(&state::gateway_config(), include_str!("gateway.toml"))?;
    state::write(
        &state::nsswitch_conf(),
        "hosts: files dns\nservices: files\nprotocols: files\npasswd: files\ngroup: files\n",
    )?;
    for namespace in Namespace::ALL {
        let text = format!("nameserver {}\nsearch lab.test\n", namespace.resolver());
        state::write(&state::resolv_conf(namespace), &text)?;
    }
    Ok(())
}

fn build_network(queues: u16) -> Result<(), LabError> {
    for namespace in Namespace::ALL {
        netns::create(namespace)?;
        for (only, parameter, value) in topology::SETTINGS {
            if only.is_none_or(|only| only == namespace) {
                netns::set(namespace, parameter, value)?;
            }
        }
        ip(namespace, "link set lo up")?;
    }
    for link in &topology::LINKS {
        make_link(link, queues)?;
    }
    for (namespace, interface, address) in topology::ADDRESSES {
        ip(
            namespace,
            &format!("address add {address} dev {interface} {}", no_dad(address)),
        )?;
    }
    for link in &topology::LINKS {
        for end in &link.ends {
            ip(end.namespace, &format!("link set {} up", end.interface))?;
        }
    }
    for (namespace, route) in topology::ROUTES {
        ip(namespace, route)?;
    }
    wait_for_carriers()
}

/// A link that is up drops what is sent until the kernel has noticed its carrier, which it does
/// in the background within a second or so.
fn wait_for_carriers() -> Result<(), LabError> {
    let deadline = Instant::now() + CARRIER_LIMIT;
    for namespace in Namespace::ALL {
        while !tool::run(
            "ip",
            &["-n", namespace.name(), "link", "show", "type", "veth"],
        )?
        .lines()
        .filter(|line| line.contains("mtu"))
        .all(|line| line.contains("state UP"))
        {
            if Instant::now() >= deadline {
                return Err(LabError::ToolFailed {
                    command: format!("ip link in {}", namespace.name()),
                    reason: format!("a link is not up after {} s", CARRIER_LIMIT.as_secs()),
                });
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    Ok(())
}

/// Duplicate address detection would keep an address unusable for a second.
fn no_dad(address: &str) -> &'static str {
    if address.contains(':') { "nodad" } else { "" }
}

/// Native XDP on veth wants at least as many receive queues as its peer has transmit queues.
fn make_link(link: &topology::Link, queues: u16) -> Result<(), LabError> {
    let [a, b] = &link.ends;
    let shape = format!("numtxqueues {queues} numrxqueues {queues} mtu {}", link.mtu);
    ip(
        a.namespace,
        &format!(
            "link add name {} {shape} type veth peer name {} {shape} netns {}",
            a.interface,
            b.interface,
            b.namespace.name()
        ),
    )?;
    // An AF_XDP socket sees frames as the peer's stack left them: with checksum or segmentation
    // offload on, that is a pseudo-header sum and a super-frame (veth, Linux 6.18).
    for (gateway, peer) in [(a, b), (b, a)] {
        if gateway.namespace == Namespace::Gateway
            && topology::GATEWAY_INTERFACES.contains(&gateway.interface)
        {
            offload_off(peer)?;
        }
    }
    Ok(())
}

fn offload_off(end: &topology::End) -> Result<(), LabError> {
    let ethtool = tool::find("ethtool")?;
    let output = netns::within(end.namespace, || {
        let mut command = std::process::Command::new(ethtool);
        command.args(["-K", end.interface, "tx", "off", "tso", "off", "gso", "off"]);
        tool::complete(command, Duration::from_secs(10))
    })??;
    if output.status.success() {
        return Ok(());
    }
    Err(LabError::ToolFailed {
        command: format!(
            "ethtool -K {} tx off (in {})",
            end.interface,
            end.namespace.name()
        ),
        reason: output.reason(),
    })
}

fn ip(namespace: Namespace, arguments: &str) -> Result<(), LabError> {
    let mut args = vec!["-n", namespace.name()];
    args.extend(arguments.split_whitespace());
    tool::run("ip", &args).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_has_a_short_name() {
        assert_eq!(parse_namespace("client"), Ok(Namespace::Client));
        assert_eq!(parse_namespace("g64-internet"), Ok(Namespace::Internet));
        let error = parse_namespace("moon").unwrap_err();
        assert!(error.contains("client, gateway, router1"), "{error}");
    }
}
