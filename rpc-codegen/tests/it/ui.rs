//! What the compiler says to those who implement a service not quite right.
//!
//! The texts are those of the toolchain that CI has; when they change with it, or with the generated
//! code: `TRYBUILD=overwrite cargo test -p rpc-codegen --test it ui`.

#[test]
fn the_compiler_says_what_is_wrong() {
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}
