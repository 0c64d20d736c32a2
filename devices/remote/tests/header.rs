//! The C header against the wire: a C program decodes what we encode.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command as Process, Stdio};

use trapline_remote::wire::{
    COMMAND_LEN, Command, Features, Hello, Layout, Op, RESPONSE_LEN, Width,
};

/// Reads commands, and prints what the header says they are.
const PROGRAM: &str = r#"
#include "ioregionfd.h"
#include <inttypes.h>
#include <stdio.h>

int main(void)
{
    struct ioregionfd_cmd cmd;

    printf("%zu %zu\n", sizeof(struct ioregionfd_cmd), sizeof(struct ioregionfd_resp));
    printf("%zu\n", sizeof(struct ioregionfd_reply));
    while (fread(&cmd, sizeof(cmd), 1, stdin) == 1) {
        ioregionfd_to_v3(&cmd);
        if (cmd.cmd == IOREGIONFD_CMD_HELLO) {
            printf("hello %" PRIu64 "\n", cmd.data);
            continue;
        }
        if (ioregionfd_id(&cmd) != 0)
            printf("%" PRIx32 " ", ioregionfd_id(&cmd));
        printf("%s %u %d %" PRIx64 " %" PRIx64 " %" PRIx64 "\n",
               cmd.cmd == IOREGIONFD_CMD_READ ? "read" : "write", ioregionfd_size(&cmd),
               (cmd.info & IOREGIONFD_RESP) != 0, cmd.user_data, cmd.offset, cmd.data);
    }
    return 0;
}
"#;

#[test]
fn the_header_reads_both_layouts_as_we_write_them() {
    let dir = tempfile::tempdir().unwrap();
    let (source, program) = (dir.path().join("decode.c"), dir.path().join("decode"));
    fs::write(&source, PROGRAM).unwrap();
    let include = Path::new(env!("CARGO_MANIFEST_DIR")).join("include");
    let mut cc = Process::new("cc");
    cc.args(["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-I"]).arg(include);
    let Ok(status) = cc.arg("-o").arg(&program).arg(&source).status() else {
        println!("SKIPPED the_header_reads_both_layouts_as_we_write_them: no C compiler (cc)");
        return;
    };
    assert!(status.success());
    let mut commands = Vec::new();
    let mut expected = format!("{COMMAND_LEN} {RESPONSE_LEN}\n{RESPONSE_LEN}\n");
    commands.extend(Hello { features: Features::ALL }.encode());
    expected.push_str("hello 3\n");
    let (op, width) = (Op::Read, Width::Bits16);
    let with_id = Command { op, width, respond: true, user_data: 1, offset: 2, data: 0 };
    commands.extend(with_id.encode_with_id(0x8899_aabb));
    expected.push_str("8899aabb read 2 1 1 2 0\n");
    for layout in [Layout::V1, Layout::V3] {
        for (op, name) in [(Op::Read, "read"), (Op::Write, "write")] {
            for width in [Width::Bits8, Width::Bits16, Width::Bits32, Width::Bits64] {
                for respond in [true, false] {
                    let data =
                        if op == Op::Write { 0x0123_4567_89ab_cdef & width.ones() } else { 0 };
                    let (user_data, offset) = (0xfeed_0000_0000_0001, 0x1_0000_0010);
                    let command = Command { op, width, respond, user_data, offset, data };
                    commands.extend(command.encode(layout));
                    let (bytes, respond) = (width.bytes(), u8::from(respond));
                    expected.push_str(&format!(
                        "{name} {bytes} {respond} {user_data:x} {offset:x} {data:x}\n"
                    ));
                }
            }
        }
    }
    let mut child =
        Process::new(&program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&commands).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
}
