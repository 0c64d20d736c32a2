//! What our init is to do in a guest: a list that it finds in its initramfs, and what it and the VMM
//! tell each other meanwhile.
//!
//! ```text
//!    VMM                                                       guest
//!    stdin  ──► Stdin, Closed ──┐                       ┌──► the command's pipes
//!    stdout ◄── Stdout          ├─ port of the virtio ──┤
//!    stderr ◄── Stderr          │   console device      │
//!    exit   ◄── Status          └───────────────────────┘    init
//!    terminal's size ──► Size ──────────────────────────────► the console
//! ```
//!
//! All of it goes by one port, so that a command's status comes behind the last it has written. Of its
//! input there is one piece on the way at a time (`Taken` asks for the next): whatever else the guest is
//! told does not wait behind input that the command does not read.

mod host;
pub mod wire;

use std::ffi::OsString;

use serde::{Deserialize, Serialize};

pub use host::{Errand, Streams};

/// The list's name in the initramfs.
pub const LIST: &str = "trapline.json";
/// Where modules are in it.
pub const MODULES: &str = "modules";
/// Where init keeps what is its own in the guest: a folder that every root has, in memory.
pub const OURS: &str = "/dev/trapline";
/// A script's name in the initramfs, and in [`OURS`].
pub const SCRIPT: &str = "trapline-script";
/// What the port is called.
pub const PORT: &str = "org.trapline.init";
/// The tag of the folder that is the root.
pub const ROOT_TAG: &str = "trapline.root";
/// The tag of the host's files, where those are not the root.
pub const HOST_TAG: &str = "trapline.host";

/// What init does before it runs something, and what it runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Modules in [`MODULES`], in the order in which they are loaded.
    pub modules: Vec<String>,
    /// What becomes the root file system; none for the initramfs.
    pub root: Option<Root>,
    /// The guest's name.
    pub hostname: String,
    /// The first network card that has an answer is configured by DHCP.
    pub dhcp: bool,
    /// The environment, besides `PATH` and what depends on the user.
    pub environment: Vec<(String, String)>,
    /// Whose processes are run.
    pub user: User,
    /// The folder in which they begin; the user's own if not said.
    pub folder: Option<OsString>,
    /// What is run, and ends the guest; a shell on the console if it is not said.
    pub command: Option<Vec<OsString>>,
    /// Which of standard input, output and error of the command are the console. The others are the
    /// port.
    pub on_console: [bool; 3],
    /// Columns and rows of the console.
    pub size: Option<(u16, u16)>,
}

/// A root file system by 9p.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// Nothing in it can be changed.
    pub read_only: bool,
    /// It is the host's own.
    pub is_hosts: bool,
    /// The host's files are on its folder `/host`, from the share [`HOST_TAG`].
    pub with_host: bool,
}

/// A user of the guest's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// The name.
    pub name: String,
    /// Its number.
    pub uid: u32,
    /// Its group's.
    pub gid: u32,
    /// Its folder.
    pub home: String,
    /// Its shell.
    pub shell: String,
}

impl Default for User {
    fn default() -> Self {
        let (name, home, shell) = ("root".to_owned(), "/root".to_owned(), "/bin/sh".to_owned());
        Self { name, uid: 0, gid: 0, home, shell }
    }
}

impl User {
    /// The user of this name or number in the text of a `passwd` (passwd(5)). A number need not be
    /// there.
    pub fn find(passwd: &str, wanted: &str) -> Option<Self> {
        let number = wanted.parse::<u32>().ok();
        let of_line = |line: &str| {
            let fields: Vec<&str> = line.split(':').collect();
            let [name, _, uid, gid, _, home, shell] = fields[..] else { return None };
            let (uid, gid) = (uid.parse().ok()?, gid.parse().ok()?);
            let [name, home, shell] = [name, home, shell].map(str::to_owned);
            Some(Self { name, uid, gid, home, shell })
        };
        let users = || passwd.lines().filter_map(of_line);
        let found = users()
            .find(|user| user.name == wanted)
            .or_else(|| users().find(|user| Some(user.uid) == number));
        found.or_else(|| {
            let (home, shell) = ("/".to_owned(), "/bin/sh".to_owned());
            number.map(|uid| Self { name: uid.to_string(), uid, gid: uid, home, shell })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_name_or_number_and_numbers_need_no_line() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\nbad line\n7:x:9:9::/seven:/bin/zsh\n\
                      me:x:1000:100:Me,,:/home/me:/bin/sh\n";
        let me = User {
            name: "me".to_owned(),
            uid: 1000,
            gid: 100,
            home: "/home/me".to_owned(),
            shell: "/bin/sh".to_owned(),
        };
        assert_eq!(User::find(passwd, "me"), Some(me.clone()));
        assert_eq!(User::find(passwd, "1000"), Some(me));
        assert_eq!(User::find(passwd, "7").unwrap().uid, 9, "a name comes before a number");
        assert_eq!(User::find(passwd, "12").unwrap().gid, 12);
        assert_eq!(User::find(passwd, "you"), None);
    }

    #[test]
    fn a_list_is_read_as_it_was_written() {
        use std::os::unix::ffi::OsStringExt;
        let command = ["ls".into(), OsString::from_vec(vec![0xff, b'a'])].to_vec();
        let task = Task { command: Some(command), size: Some((80, 25)), ..Task::default() };
        let text = serde_json::to_vec(&task).unwrap();
        assert_eq!(serde_json::from_slice::<Task>(&text).unwrap(), task);
    }
}
