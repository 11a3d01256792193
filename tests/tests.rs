//! What is visible from outside, in one binary: files are named for the behaviour that they show.

mod simulation;
