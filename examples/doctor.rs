//! Examines the server that `REDIS_URL` names, and prints what would hurt.
//!
//! ```sh
//! REDIS_URL=redis://127.0.0.1:6379 cargo run --example doctor
//! REDIS_URL=redis://127.0.0.1:6379 cargo run --example doctor -- --json
//! ```
//!
//! It exits with 1 if there is an error among the findings, and with 2 if it cannot connect at all.

use std::{env, process::ExitCode, time::Duration};
use towerkeep::{Backend, backend::Severity};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let json = match env::args().skip(1).collect::<Vec<_>>().as_slice() {
        [] => false,
        [flag] if flag == "--json" => true,
        _ => {
            eprintln!("usage: doctor [--json]");
            return ExitCode::from(2);
        }
    };
    // A server that is slow is to be examined, too.
    let backend = match Backend::builder().deadline(Duration::from_secs(2)).from_env().await {
        Ok(backend) => backend,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    let report = backend.doctor().await;
    if json {
        println!("{}", serde_json::to_string_pretty(&report).expect("a report is plain data"));
    } else {
        println!("{report}");
    }
    match report.worst() {
        Some(Severity::Error) => ExitCode::FAILURE,
        _ => ExitCode::SUCCESS,
    }
}
