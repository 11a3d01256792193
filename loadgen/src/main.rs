//! The program: see the library, which is it whole.

use std::process::ExitCode;

fn main() -> ExitCode {
    loadgen::main()
}
