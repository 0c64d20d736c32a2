//! Why a machine could not be built or started.

/// One sentence for the user each.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The guest's software could not be loaded.
    #[error(transparent)]
    Boot(#[from] trapline_boot::Error),
    /// KVM refused.
    #[error(transparent)]
    Kvm(#[from] trapline_kvm::Error),
    /// The host has no room for the guest's RAM.
    #[error(transparent)]
    Memory(#[from] trapline_guestmem::Error),
    /// The board's map is wrong.
    #[error("the board does not fit together: {0}")]
    Map(#[from] trapline_device::EditError),
    /// Writes that are to queue up and cannot.
    #[error("{register}: {why}")]
    LateWrites {
        /// The register, as the user named it.
        register: String,
        /// Why not.
        why: String,
    },
    /// Two devices with one name.
    #[error("there is a device called {0} already")]
    DeviceName(String),
    /// A function of the PCI bus is in the way of another.
    #[error("the PCI bus does not fit together: {0}")]
    Pci(#[from] trapline_pci::BusError),
    /// More devices than the PCI bus has slots.
    #[error("the PCI bus has no slot left for {0}")]
    NoPciSlot(String),
    /// A virtio device that is to have registers, and is not there.
    #[error("there is no virtio device {name} to be behind {transport}; there are {devices}")]
    NoVirtioDevice {
        /// The name.
        name: String,
        /// The registers it was to have.
        transport: &'static str,
        /// The names that there are.
        devices: String,
    },
    /// A recording that cannot be written.
    #[error("cannot record to {}: {reason}", path.display())]
    Record {
        /// The file.
        path: std::path::PathBuf,
        /// Why not.
        reason: trapline_trace::Error,
    },
    /// Devices cannot come and go.
    #[error("this board's devices cannot come and go")]
    NoPlugs,
    /// There is no device of that name that can be asked for.
    #[error("there is no device called {0}")]
    NoDevice(String),
    /// A balloon where there is one.
    #[error("Only one balloon device is supported")]
    SecondBalloon,
    /// A port for which there is no console device.
    #[error("there is no virtio-serial-pci to plug a port into")]
    NoSerial,
    /// A port that its console device does not take.
    #[error(transparent)]
    ConsolePort(#[from] trapline_virtio::console::PortError),
    /// A disk that cannot be had.
    #[error(transparent)]
    Disk(#[from] trapline_block::Error),
    /// What is behind a network card cannot be had.
    #[error(transparent)]
    Net(#[from] trapline_net::NetError),
    /// A folder that cannot be shared.
    #[error("--9p: {0}")]
    Share(#[from] trapline_ninep::ShareError),
    /// The socket of a socket device cannot be had.
    #[error("--vsock: cannot listen at {}: {reason}", path.display())]
    Vsock {
        /// Where it was to be.
        path: std::path::PathBuf,
        /// Why not.
        reason: std::io::Error,
    },
    /// A port's file, terminal or socket cannot be had.
    #[error("port {name}: {}: {reason}", outlet_of(.outlet))]
    Port {
        /// The port's name.
        name: String,
        /// What is to be behind it.
        outlet: trapline_backends::Outlet,
        /// Why not.
        reason: std::io::Error,
    },
    /// More devices than the board has windows for.
    #[error("the board has no window of registers left for {0}")]
    NoMmioSlot(String),
    /// A function of the host that the guest cannot have.
    #[error(transparent)]
    Vfio(#[from] trapline_vfio::Error),
    /// Memory that functions of the host cannot reach.
    #[error("an assigned function needs all of the guest's memory: {0}")]
    Dma(trapline_device::EditError),
    /// The table of interrupt lines is wrong.
    #[error("the interrupts do not fit together: {0}")]
    Routes(#[from] trapline_intc::RouteError),
    /// A file for firmware that cannot be had.
    #[error("{0}")]
    FwCfg(#[from] trapline_platform::fw_cfg::ItemError),
    /// A region of another process that cannot be there.
    #[error("ioregion {space} {base:#x}: {}", ioregion_refused(.reason))]
    IoRegion {
        /// The space.
        space: trapline_device::Space,
        /// Its first address.
        base: u64,
        /// Why not.
        reason: std::io::Error,
    },
    /// A socket that is asked to be two things.
    #[error("{}: the regions on it do not agree on its type or on when-dead", .0.display())]
    TwoKindsOfSocket(std::path::PathBuf),
    /// A socket that cannot be had.
    #[error("{}: {reason}", .path.display())]
    Socket {
        /// Its name.
        path: std::path::PathBuf,
        /// Why not.
        reason: std::io::Error,
    },
    /// A device in another process is dead, and the machine was to end then.
    #[error("{0}")]
    DeviceLost(String),
    /// A device that is served has failed.
    #[error(transparent)]
    Serve(#[from] trapline_remote::ServeError),
    /// Less RAM than a PC can start with.
    #[error("{bytes} bytes of RAM are too few: a PC needs at least 1 MiB")]
    TooLittleMemory {
        /// What was asked for.
        bytes: u64,
    },
    /// RAM where the arm64 board has devices.
    #[error("RAM cannot begin at {base:#x}: below {lowest:#x} are the devices of the board")]
    RamAddress {
        /// What was asked for.
        base: u64,
        /// The lowest address it may have.
        lowest: u64,
    },
    /// RAM that a 32-bit guest cannot reach.
    #[error("RAM ends at {end:#x}, and a 32-bit guest reaches {limit:#x}: give it less memory")]
    TooHigh {
        /// End (exclusive) of RAM.
        end: u64,
        /// The highest it may be.
        limit: u64,
    },
    /// A flash image cannot be used.
    #[error("Unable to open flash {}: {reason}", path.display())]
    Flash {
        /// The file.
        path: std::path::PathBuf,
        /// Why not.
        reason: String,
    },
    /// Flash images that are too large together.
    #[error("{len} bytes of flash are too many, at most {max} fit below 4 GiB; use smaller images")]
    FlashTooBig {
        /// What there is.
        len: u64,
        /// The most there can be.
        max: u64,
    },
    /// The device tree cannot be written to a file.
    #[error("cannot write the device tree to {}: {reason}", path.display())]
    DumpTree {
        /// The file.
        path: std::path::PathBuf,
        /// Why not.
        reason: std::io::Error,
    },
    /// The source made no interrupt controller.
    #[error("the machine needs an interrupt controller")]
    NoIrqchip,
    /// More vCPUs than the board's interrupt controllers can name.
    #[error("{wanted} vCPUs are too many: the PC board takes at most {max}")]
    TooManyCpus {
        /// What was asked for.
        wanted: u32,
        /// The limit.
        max: u32,
    },
    /// The host has no thread or descriptor left for the event loop or the clock.
    #[error("cannot set up the event loop: {0}")]
    EventLoop(std::io::Error),
    /// A device cannot be in a process of its own.
    #[error("--isolate {device}: {reason}")]
    Isolate {
        /// Its name.
        device: String,
        /// Why not.
        reason: String,
    },
    /// A vCPU would not stop.
    #[error(transparent)]
    Stuck(#[from] trapline_kvm::Stuck),
}

fn outlet_of(outlet: &trapline_backends::Outlet) -> String {
    use trapline_backends::Outlet;
    match outlet {
        Outlet::File(path) => format!("cannot write {}", path.display()),
        Outlet::Pty(Some(link)) => {
            format!("cannot make a pseudo terminal with the link {}", link.display())
        }
        Outlet::Pty(None) => "cannot make a pseudo terminal".to_owned(),
        Outlet::Connected(_) => "cannot use a socket".to_owned(),
        Outlet::Socket(path) => format!("cannot listen on {}", path.display()),
    }
}

fn ioregion_refused(reason: &std::io::Error) -> String {
    match reason.kind() {
        std::io::ErrorKind::AlreadyExists => {
            "something is in the way: another region, a doorbell, or half of a device".to_owned()
        }
        _ => reason.to_string(),
    }
}
