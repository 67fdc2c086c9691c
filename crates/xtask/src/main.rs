//! The project's development tasks: `cargo xtask setup|build|test|tidy|bench|demo-image`.
//!
//! ```text
//! setup ──► build ──► test          what a fresh machine needs, in this order; `test` does all three
//!             └─────► bench
//! tidy                               format, lints, docs, and the rules that no compiler checks
//! ```

mod build;
mod command;
mod cycles;
mod dependencies;
mod packages;
mod sources;
mod test;
mod tidy;
mod tokens;
mod words;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use packages::Purpose;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Bismuth's development tasks")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install the Debian packages that building and running need; elsewhere, say what is missing.
    Setup {
        /// What else the machine is for: each includes those before it.
        #[arg(value_enum, default_value = "run")]
        purpose: Purpose,
        /// Install nothing; fail if something is missing.
        #[arg(long)]
        check: bool,
    },
    /// Build the five programs, and bismuth-init as a static one.
    Build {
        /// With optimisation.
        #[arg(long)]
        release: bool,
        /// Only what runs inside containers: bismuth-init, and the echo server of tests.
        #[arg(long)]
        static_only: bool,
    },
    /// Build, then run every test (as root: they make namespaces and mounts).
    Test {
        /// Arguments for `cargo nextest run`, such as a filter.
        #[arg(last = true)]
        nextest: Vec<String>,
    },
    /// Check format, lints, docs, allowed dependencies, import cycles and listed names.
    Tidy {
        /// Only these: format, lints, docs, arrows, sources, circles, words, scripts, deny.toml.
        only: Vec<String>,
    },
    /// Build with optimisation, then run the benchmarks.
    Bench {
        /// exec, cold, warm; all unless told otherwise. After them `--rounds N` and `--seconds N`.
        #[arg(trailing_var_arg = true)]
        bench: Vec<String>,
    },
    /// Write the demonstration's image, made from this machine's busybox, as an OCI archive.
    DemoImage {
        /// The file to write.
        output: std::path::PathBuf,
    },
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().task {
        Task::Setup { purpose, check } => packages::setup(purpose, check),
        Task::Build {
            release,
            static_only: true,
        } => build::in_containers(release),
        Task::Build { release, .. } => build::programs(release),
        Task::Test { nextest } => test::run(&nextest),
        Task::Tidy { only } => tidy::run(&only),
        Task::Bench { bench } => build::bench(&bench),
        Task::DemoImage { output } => build::demo_image(&output),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
