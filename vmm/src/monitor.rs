//! QEMU's monitor for a machine without a CPU: the commands by which a client changes what it is
//! made of.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};
use trapline_device::Clock;
use trapline_machine::PlugPort;
use trapline_machine::balloon::Balloon;
use trapline_machine::card::Rounds;
use trapline_machine::disk::{DiskOptions, Format, SECTOR};
use trapline_machine::qtest::Machine;
use trapline_qtest::Target;
use trapline_qtest::qmp::{self, Arguments, Class, Managed, Refusal};

use crate::cli::qemu::{self, Chardevs, Netdevs, Properties, Wanted};

type Answer = Result<Value, Refusal>;

/// A command and what does it.
type Command<'a> = (&'static str, fn(&Console<'a>, &Arguments) -> Answer);

/// A machine's monitor, whoever talks to it.
pub struct Console<'a> {
    machine: &'a Machine,
    /// Images that devices can be made of, by their names.
    drives: RefCell<BTreeMap<String, DiskOptions>>,
    /// Which device has which of them.
    users: RefCell<BTreeMap<String, String>>,
    /// What ports can lead to, by their names.
    chardevs: Chardevs,
    /// What network cards can lead to, by their names.
    netdevs: Netdevs,
    /// Which card leads to which of them.
    net_users: RefCell<BTreeMap<String, String>>,
    /// Which port leads to which of them.
    port_users: RefCell<BTreeMap<String, String>>,
    /// How much of the guest's memory was in the balloon when clients heard of it last, in bytes.
    held: Cell<u64>,
    events: RefCell<Vec<Vec<u8>>>,
    quit: Cell<bool>,
    /// Whether answers are those of QEMU since version 8.2.
    recent: bool,
}

impl<'a> Console<'a> {
    const COMMANDS: [Command<'a>; 23] = [
        ("announce-self", Self::announce_self),
        ("balloon", Self::balloon),
        ("block_resize", Self::block_resize),
        ("blockdev-add", Self::blockdev_add),
        ("blockdev-del", Self::blockdev_del),
        ("cont", |console, _| console.set_stopped(false)),
        ("device_add", Self::device_add),
        ("device_del", Self::device_del),
        ("qom-list-types", Self::qom_list_types),
        ("query-balloon", |console, _| console.query_balloon()),
        ("query-block", |console, _| console.query_block()),
        ("query-commands", |_, _| Ok(Self::query_commands())),
        ("query-cpus-fast", |_, _| Ok(json!([]))),
        ("query-kvm", |_, _| Ok(json!({ "enabled": false, "present": false }))),
        ("query-machines", |console, _| Ok(console.query_machines())),
        ("query-name", |_, _| Ok(json!({}))),
        ("query-status", |console, _| Ok(console.query_status())),
        ("query-version", |_, _| Ok(qmp::version())),
        ("quit", |console, _| console.quit()),
        ("set_link", Self::set_link),
        ("stop", |console, _| console.set_stopped(true)),
        ("system_powerdown", |_, _| Err(Refusal::new("there is no guest to switch itself off"))),
        ("system_reset", |console, _| console.system_reset()),
    ];

    /// The monitor of `machine`. Devices can be made of these drives, and ports and cards lead to these
    /// character devices and back ends; `recent` says whether answers are those of QEMU since version 8.2.
    pub fn new(
        machine: &'a Machine,
        (drives, chardevs, netdevs): (BTreeMap<String, DiskOptions>, Chardevs, Netdevs),
        recent: bool,
    ) -> Self {
        Self {
            machine,
            drives: RefCell::new(drives),
            users: RefCell::default(),
            chardevs,
            netdevs,
            net_users: RefCell::default(),
            port_users: RefCell::default(),
            held: Cell::new(0),
            events: RefCell::default(),
            quit: Cell::new(false),
            recent,
        }
    }

    /// Events since the last call, for every client.
    pub fn take_events(&self) -> Vec<Vec<u8>> {
        for name in self.machine.take_gone() {
            self.users.borrow_mut().retain(|_, user| *user != name);
            self.port_users.borrow_mut().retain(|_, user| *user != name);
            self.net_users.borrow_mut().retain(|_, user| *user != name);
            let path = format!("/machine/peripheral/{name}");
            self.event("DEVICE_DELETED", json!({ "device": name, "path": path }));
        }
        self.look_at_balloon();
        self.events.take()
    }

    /// Tells of a change of what is in the balloon, as the guest says.
    fn look_at_balloon(&self) {
        let balloon = self.machine.balloon();
        let held = balloon.as_ref().map_or(0, |balloon| balloon.held());
        if self.held.replace(held) != held
            && let Some(balloon) = balloon
        {
            self.event("BALLOON_CHANGE", json!({ "actual": balloon.left() }));
        }
    }

    /// Whether a client has asked for the end.
    pub fn has_quit(&self) -> bool {
        self.quit.get()
    }

    fn event(&self, name: &str, data: Value) {
        let clock = self.machine.clock();
        let ns = clock.utc_ns();
        self.events.borrow_mut().push(qmp::event(name, data, ns));
    }

    fn query_commands() -> Value {
        let named = |name: &str| json!({ "name": name });
        let names = Self::COMMANDS.iter().map(|(name, _)| named(name));
        names.chain([named("qmp_capabilities")]).collect()
    }

    fn query_status(&self) -> Value {
        let running = !self.machine.is_stopped();
        let status = if running { "running" } else { "paused" };
        let mut answer = json!({ "running": running, "status": status });
        if let Some(answer) = answer.as_object_mut()
            && !self.recent
        {
            answer.insert("singlestep".to_owned(), json!(false));
        }
        answer
    }

    /// The machines that our command line for QEMU's knows.
    fn query_machines(&self) -> Value {
        let machine = |name: &str, cpus: u32| {
            let mut machine = json!({
                "name": name, "cpu-max": cpus, "hotpluggable-cpus": false,
                "numa-mem-supported": false, "deprecated": false,
            });
            if let Some(machine) = machine.as_object_mut()
                && self.recent
            {
                machine.insert("acpi".to_owned(), json!(name == "pc"));
            }
            machine
        };
        json!([machine("pc", 1), machine("none", 1)])
    }

    fn qom_list_types(&self, arguments: &Arguments) -> Answer {
        let devices = matches!(text(arguments, "implements")?, None | Some("device"));
        let types = qemu::DRIVERS.iter().filter(|_| devices);
        Ok(types.map(|(name, parent)| json!({ "name": name, "parent": parent })).collect())
    }

    fn query_block(&self) -> Answer {
        let (drives, users) = (self.drives.borrow(), self.users.borrow());
        let block = |(name, options): (&String, &DiskOptions)| {
            let user = users.get(name);
            let disk = user.and_then(|id| self.machine.disk(id));
            let format = options.format.map_or("raw".to_owned(), |format| format.to_string());
            let mut inserted = json!({
                "file": options.path.to_string_lossy(), "drv": format, "ro": options.read_only,
            });
            if let (Some(disk), Some(inserted)) = (disk, inserted.as_object_mut()) {
                let size = disk.disk().capacity();
                let image = json!({ "virtual-size": size });
                inserted.insert("image".to_owned(), image);
            }
            json!({ "device": name, "qdev": user, "inserted": inserted })
        };
        Ok(drives.iter().map(block).collect())
    }

    fn set_stopped(&self, stopped: bool) -> Answer {
        if self.machine.is_stopped() != stopped {
            self.machine.set_stopped(stopped);
            self.event(if stopped { "STOP" } else { "RESUME" }, json!({}));
        }
        self.machine.run_back_ends();
        Ok(json!({}))
    }

    fn system_reset(&self) -> Answer {
        self.machine.reset();
        self.machine.run_back_ends();
        self.event("RESET", json!({ "guest": false, "reason": "host-qmp-system-reset" }));
        Ok(json!({}))
    }

    fn quit(&self) -> Answer {
        self.quit.set(true);
        self.event("SHUTDOWN", json!({ "guest": false, "reason": "host-qmp-quit" }));
        Ok(json!({}))
    }

    fn block_resize(&self, arguments: &Arguments) -> Answer {
        let name = match text(arguments, "device")? {
            Some(name) => name,
            None => required("node-name", text(arguments, "node-name")?)?,
        };
        let size = typed(arguments, "size", "an integer", Value::as_u64)?;
        let size = required("size", size)?;
        let user = self.users.borrow().get(name).cloned();
        let disk = self.machine.disk(user.as_deref().unwrap_or(name)).ok_or_else(|| {
            let reason = format!("Cannot find device='{name}' nor node-name='{name}'");
            Refusal { class: Class::DeviceNotFound, reason }
        })?;
        // QEMU takes any size, and makes whole sectors of it.
        let size = size.checked_next_multiple_of(SECTOR);
        let size = size.ok_or_else(|| Refusal::new("that is too long for a disk"))?;
        disk.resize(size).map_err(|error| Refusal::new(error.to_string()))?;
        self.machine.run_back_ends();
        Ok(json!({}))
    }

    fn the_balloon(&self) -> Result<Arc<Balloon>, Refusal> {
        let reason = "No balloon device has been activated".to_owned();
        self.machine.balloon().ok_or(Refusal { class: Class::DeviceNotActive, reason })
    }

    fn balloon(&self, arguments: &Arguments) -> Answer {
        let value = typed(arguments, "value", "an integer", Value::as_i64)?;
        let value = required("value", value)?;
        let balloon = self.the_balloon()?;
        let left = u64::try_from(value).ok().filter(|left| *left > 0);
        let left = left.ok_or_else(|| Refusal::new("Parameter 'target' expects a size"))?;
        balloon.set_left(left);
        self.machine.run_back_ends();
        Ok(json!({}))
    }

    fn query_balloon(&self) -> Answer {
        Ok(json!({ "actual": self.the_balloon()?.left() }))
    }

    /// Has cards announce themselves: those that are named, or all.
    fn announce_self(&self, arguments: &Arguments) -> Answer {
        let number = |name: &str| -> Result<u64, Refusal> {
            required(name, typed(arguments, name, "an integer", Value::as_u64)?)
        };
        let milliseconds = |name: &str| Ok(number(name)?.saturating_mul(1_000_000));
        let rounds = Rounds {
            rounds: u32::try_from(number("rounds")?).unwrap_or(u32::MAX),
            initial_ns: milliseconds("initial")?,
            step_ns: milliseconds("step")?,
            max_ns: milliseconds("max")?,
        };
        text(arguments, "id")?;
        let chosen = typed(arguments, "interfaces", "an array", Value::as_array)?;
        let is_chosen =
            |name: &str| chosen.is_none_or(|chosen| chosen.iter().any(|one| one == name));
        let cards = self.machine.nets().into_iter().filter(|(name, _)| is_chosen(name));
        let cards = cards.map(|(_, card)| Arc::downgrade(&card)).collect();
        self.machine.announcer().start(cards, rounds);
        self.machine.run_back_ends();
        Ok(json!({}))
    }

    /// Plugs a card's cable in, or out.
    fn set_link(&self, arguments: &Arguments) -> Answer {
        let name = required("name", text(arguments, "name")?)?;
        let up = required("up", typed(arguments, "up", "a boolean", Value::as_bool)?)?;
        // By the card's name, or that of what it leads to.
        let user = self.net_users.borrow().get(name).cloned();
        let wanted = user.as_deref().unwrap_or(name);
        let cards = self.machine.nets();
        let card = cards.iter().find(|(name, _)| name == wanted).ok_or_else(|| Refusal {
            class: Class::DeviceNotFound,
            reason: format!("Device '{name}' not found"),
        })?;
        card.1.set_plugged(up);
        self.machine.run_back_ends();
        Ok(json!({}))
    }

    fn blockdev_add(&self, arguments: &Arguments) -> Answer {
        let name = required("node-name", text(arguments, "node-name")?)?.to_owned();
        let options = drive(arguments)?;
        let mut drives = self.drives.borrow_mut();
        if drives.contains_key(&name) {
            return Err(Refusal::new(format!("Duplicate nodes with node-name='{name}'")));
        }
        drives.insert(name, options);
        Ok(json!({}))
    }

    fn blockdev_del(&self, arguments: &Arguments) -> Answer {
        let name = required("node-name", text(arguments, "node-name")?)?;
        if self.users.borrow().contains_key(name) {
            return Err(Refusal::new(format!("Node {name} is in use")));
        }
        match self.drives.borrow_mut().remove(name) {
            Some(_) => Ok(json!({})),
            None => Err(Refusal::new(format!("Failed to find node with node-name='{name}'"))),
        }
    }

    fn device_add(&self, arguments: &Arguments) -> Answer {
        let properties: Result<Properties, String> = arguments
            .iter()
            .map(|(name, value)| match value {
                Value::String(text) => Ok((name.clone(), text.clone())),
                Value::Number(number) => Ok((name.clone(), number.to_string())),
                Value::Bool(on) => Ok((name.clone(), if *on { "on" } else { "off" }.to_owned())),
                _ => Err(format!("Parameter '{name}' is no text, number or truth value")),
            })
            .collect();
        let properties = properties.map_err(Refusal::new)?;
        self.plug(&properties, true).map_err(Refusal::new)?;
        self.machine.run_back_ends();
        Ok(json!({}))
    }

    /// Plugs in a device or port with these properties. `told` says whether the guest is told.
    ///
    /// # Errors
    /// Why it cannot be had, in a sentence.
    pub fn plug(&self, properties: &Properties, told: bool) -> Result<(), String> {
        let plug =
            match qemu::device(properties, &self.drives.borrow(), &self.chardevs, &self.netdevs)? {
                Wanted::Device(plug) => plug,
                Wanted::Port(port) => return self.plug_port(&port, properties.get("chardev")),
            };
        let drive = properties.get("drive");
        if let Some(user) = drive.and_then(|drive| self.users.borrow().get(drive).cloned()) {
            return Err(format!("Drive is already in use by {user}"));
        }
        let netdev = properties.get("netdev");
        if let Some(user) = netdev.and_then(|netdev| self.net_users.borrow().get(netdev).cloned()) {
            return Err(format!("netdev is already in use by {user}"));
        }
        let name = self.machine.plug(&plug, told).map_err(|error| error.to_string())?;
        if let Some(netdev) = netdev {
            self.net_users.borrow_mut().insert(netdev.clone(), name.clone());
        }
        if let Some(drive) = drive {
            self.users.borrow_mut().insert(drive.clone(), name);
        }
        Ok(())
    }

    fn plug_port(&self, port: &PlugPort, chardev: Option<&String>) -> Result<(), String> {
        let user = chardev.and_then(|name| self.port_users.borrow().get(name).cloned());
        if let (Some(chardev), Some(user)) = (chardev, user) {
            return Err(format!("chardev={chardev}: {user} leads there"));
        }
        let name = self.machine.plug_port(port).map_err(|error| error.to_string())?;
        if let Some(chardev) = chardev {
            self.port_users.borrow_mut().insert(chardev.clone(), name);
        }
        Ok(())
    }

    fn device_del(&self, arguments: &Arguments) -> Answer {
        let id = required("id", text(arguments, "id")?)?;
        self.machine.ask_back(id).map_err(|_| Refusal {
            class: Class::DeviceNotFound,
            reason: format!("Device '{id}' not found"),
        })?;
        // A port has gone by now.
        self.machine.run_back_ends();
        Ok(json!({}))
    }
}

impl Managed for Console<'_> {
    fn execute(&self, command: &str, arguments: &Arguments) -> Answer {
        let found = Self::COMMANDS.iter().find(|(name, _)| *name == command);
        let (_, perform) = found.ok_or_else(|| Refusal::unknown(command))?;
        perform(self, arguments)
    }
}

/// An argument, which is of one kind, if it is there.
fn typed<'v, T>(
    arguments: &'v Arguments,
    name: &str,
    kind: &str,
    read: impl Fn(&'v Value) -> Option<T>,
) -> Result<Option<T>, Refusal> {
    let wrong = || Refusal::new(format!("Parameter '{name}' expects {kind}"));
    arguments.get(name).map(|value| read(value).ok_or_else(wrong)).transpose()
}

fn text<'v>(arguments: &'v Arguments, name: &str) -> Result<Option<&'v str>, Refusal> {
    typed(arguments, name, "a string", Value::as_str)
}

fn object<'v>(arguments: &'v Arguments, name: &str) -> Result<Option<&'v Arguments>, Refusal> {
    typed(arguments, name, "an object", Value::as_object)
}

/// A switch, which is off if it is not there.
fn is_on(arguments: &Arguments, name: &str) -> Result<bool, Refusal> {
    Ok(typed(arguments, name, "a boolean", Value::as_bool)?.unwrap_or(false))
}

fn required<T>(name: &str, argument: Option<T>) -> Result<T, Refusal> {
    argument.ok_or_else(|| Refusal::new(format!("Parameter '{name}' is missing")))
}

/// An image, as `blockdev-add` has it: a format in a file, or a file.
fn drive(node: &Arguments) -> Result<DiskOptions, Refusal> {
    let mut options = match required("driver", text(node, "driver")?)? {
        "null-co" => DiskOptions { format: Some(Format::Null), ..DiskOptions::new("null-co://") },
        "file" | "host_device" => {
            let path = required("filename", text(node, "filename")?)?;
            DiskOptions { format: Some(Format::Raw), ..DiskOptions::new(path) }
        }
        format => {
            let format = qemu::format(format).map_err(Refusal::new)?;
            let below = drive(required("file", object(node, "file")?)?)?;
            match format {
                // A null-co one stays what it is.
                Format::Raw => below,
                _ => DiskOptions { format: Some(format), ..below },
            }
        }
    };
    options.read_only |= is_on(node, "read-only")?;
    if let Some(cache) = object(node, "cache")? {
        options.direct |= is_on(cache, "direct")?;
    }
    Ok(options)
}
