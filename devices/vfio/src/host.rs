//! Functions of the host, opened for one guest: their groups, and the container through which all of
//! them reach its memory.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use trapline_device::MemoryListener;

use crate::dma::DmaMap;
use crate::function::OpenFunction;
use crate::hardware::Iommu;
use crate::names::Names;
use crate::sys::{Container, Group};
use crate::sysfs::Sysfs;
use crate::{Address, Error};

/// A function to be assigned, as its user says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// Where it is on the host.
    pub address: Address,
    /// The BARs that are trapped even where the kernel could map them.
    pub trapped: Vec<u8>,
    /// Names of its registers; those that come with this crate, if there are none.
    pub names: Names,
}

/// A group that this process has opened.
pub struct OpenGroup {
    number: u32,
    group: Group,
}

impl AsFd for OpenGroup {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.group.file().as_fd()
    }
}

/// The functions of one guest.
pub struct Host {
    sysfs: Sysfs,
    container: Arc<Container>,
    groups: Vec<Arc<OpenGroup>>,
    /// Told of each group: KVM, which has to know who does DMA behind the processors' caches.
    on_group: Box<dyn Fn(BorrowedFd<'_>) -> io::Result<()> + Send + Sync>,
}

const CONTAINER: &str = "/dev/vfio/vfio";

impl Host {
    /// A container without functions. `on_group` is told of each group that comes to it.
    ///
    /// # Errors
    /// The host has no VFIO, or the user may not use it.
    pub fn new(
        on_group: impl Fn(BorrowedFd<'_>) -> io::Result<()> + Send + Sync + 'static,
    ) -> Result<Self, Error> {
        let path = PathBuf::from(CONTAINER);
        let container = open(&path).and_then(Container::new);
        let container = container.map_err(|reason| Error::NoVfio { path, reason })?;
        let (container, on_group) = (Arc::new(container), Box::new(on_group));
        Ok(Self { sysfs: Sysfs::default(), container, groups: Vec::new(), on_group })
    }

    /// Opens all of several functions, and what their DMA reaches, which has nothing in it yet. The
    /// reasons that a user can do something about come first.
    ///
    /// # Errors
    /// Why one cannot be had, in a sentence that says what mends it.
    pub fn open(
        assignments: &[Assignment],
        on_group: impl Fn(BorrowedFd<'_>) -> io::Result<()> + Send + Sync + 'static,
    ) -> Result<(Vec<OpenFunction>, Arc<dyn MemoryListener>), Error> {
        let sysfs = Sysfs::default();
        for Assignment { address, .. } in assignments {
            sysfs.check(*address)?;
        }
        let mut host = Self::new(on_group)?;
        for Assignment { address, .. } in assignments {
            host.join(*address)?;
        }
        let functions = assignments.iter().map(|assignment| host.function(assignment));
        let functions = functions.collect::<Result<Vec<_>, _>>()?;
        let iommu: Arc<dyn Iommu> = host.container;
        let address = assignments.first().map(|assignment| assignment.address);
        let map = DmaMap::new(iommu).map_err(|reason| match address {
            Some(address) => Error::Kernel { address, what: "ask about its IOMMU", reason },
            None => Error::NoVfio { path: CONTAINER.into(), reason },
        })?;
        Ok((functions, Arc::new(map)))
    }

    /// Has a function's group reach memory through the container, if it does not yet.
    fn join(&mut self, address: Address) -> Result<(), Error> {
        let number = self.sysfs.check(address)?;
        if self.groups.iter().any(|group| group.number == number) {
            return Ok(());
        }
        let path = PathBuf::from(format!("/dev/vfio/{number}"));
        let file = open(&path).map_err(|reason| match reason.kind() {
            io::ErrorKind::PermissionDenied => Error::Permission { address, path: path.clone() },
            io::ErrorKind::ResourceBusy => Error::Busy { address, path: path.clone() },
            _ => Error::NoVfio { path: path.clone(), reason },
        })?;
        let kernel = |what| move |reason| Error::Kernel { address, what, reason };
        let group = Group::new(file);
        if !group.is_viable().map_err(kernel("ask about its group"))? {
            return Err(self.sysfs.not_viable(address, number));
        }
        group.join(&self.container).map_err(kernel("put its group into a container"))?;
        if self.groups.is_empty() {
            self.container.set_iommu().map_err(kernel("use its IOMMU"))?;
        }
        let group = OpenGroup { number, group };
        if let Err(error) = (self.on_group)(group.as_fd()) {
            tracing::debug!("{address}: KVM does not hear of its group: {error}");
        }
        self.groups.push(Arc::new(group));
        Ok(())
    }

    fn function(&self, assignment: &Assignment) -> Result<OpenFunction, Error> {
        let Assignment { address, trapped, names } = assignment;
        let number = self.sysfs.check(*address)?;
        let group = self.groups.iter().find(|group| group.number == number);
        let device = match group {
            Some(group) => group.group.device(&address.to_string()),
            None => Err(io::ErrorKind::NotFound.into()),
        };
        let device = device.map_err(|reason| match reason.kind() {
            io::ErrorKind::ResourceBusy => {
                Error::Busy { address: *address, path: format!("/dev/vfio/{number}").into() }
            }
            _ => Error::Kernel { address: *address, what: "open it", reason },
        })?;
        Ok(OpenFunction {
            address: *address,
            hardware: Arc::new(device),
            groups: self.groups.clone(),
            trapped: trapped.clone(),
            names: names.clone(),
        })
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}
