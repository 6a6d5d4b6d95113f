//! Every call that can fail, without Xen: a hypervisor of the test's own that answers, or refuses.

use super::abi::{self, ABIS, Abi};
use super::control;
use super::frames::Frames;
use super::privcmd::{Hypervisor, Window};
use super::registers;
use super::store::XenStore;
use super::windows::{Missing, Part, Windows};
use super::*;
use crate::ControlError;
use crate::processors::{Processor, Upcall, UpcallKind};
use std::collections::BTreeMap;
use std::io::{Cursor, Read, Write};
use std::sync::Mutex;

const ABI: Abi = ABIS[3];
const PAGE: usize = PAGE_BYTES as usize;
/// `XEN_DOMINF_running`.
const RUNNING: u32 = 1 << 5;

/// A Xen with one domain, number 5, whose frames hold their own number.
#[derive(Default)]
struct FakeXen {
    /// The call (its command, or its number) that fails, and how.
    fails: Option<(u64, i32)>,
    hvm: bool,
    on_demand: u64,
    /// Frames by the number that they are mapped by.
    frames: BTreeMap<u64, Vec<u8>>,
    /// Frames that cannot be mapped, and why.
    broken: BTreeMap<u64, i32>,
    maps: Mutex<u64>,
}

struct FakeWindow(Vec<Result<Vec<u8>, i32>>);

impl Window for FakeWindow {
    fn error(&self, index: usize) -> Option<i32> {
        self.0.get(index).map_or(Some(libc::EFAULT), |page| page.as_ref().err().copied())
    }
    fn copy_out(&self, index: usize, offset: usize, buf: &mut [u8]) {
        if let Some(Ok(page)) = self.0.get(index) {
            buf.copy_from_slice(&page[offset..offset + buf.len()]);
        }
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn info_bytes(xen: &FakeXen) -> Vec<u8> {
    let mut info = vec![0; ABI.info_bytes];
    info[0..2].copy_from_slice(&5_u16.to_le_bytes());
    info[4..8].copy_from_slice(&(if xen.hvm { abi::HVM } else { 0 } | RUNNING).to_le_bytes());
    info[8..16].copy_from_slice(&(xen.frames.len() as u64).to_le_bytes());
    info[48..56].copy_from_slice(&0x900_u64.to_le_bytes());
    info[64..68].copy_from_slice(&2_u32.to_le_bytes());
    info[68..72].copy_from_slice(&2_u32.to_le_bytes());
    info[76..92].copy_from_slice(&[0xab; 16]);
    info
}

impl Hypervisor for FakeXen {
    fn call(
        &self,
        op: u64,
        command: Option<u64>,
        arg: &mut [u8],
        pointed: Option<(usize, &mut [u8])>,
    ) -> io::Result<u64> {
        let asked =
            if op == abi::DOMCTL || op == abi::SYSCTL { word(arg, 0).into() } else { command.unwrap_or(op) };
        if let Some((_, errno)) = self.fails.filter(|(call, _)| *call == asked) {
            return Err(io::Error::from_raw_os_error(errno));
        }
        let versioned = |version: u32| {
            if word(arg, 4) == version { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EACCES)) }
        };
        match (op, asked as u32) {
            (abi::SYSCTL, _) => {
                versioned(ABI.sysctl)?;
                let first = word(arg, abi::SYSCTL_UNION) & 0xffff;
                let found = u32::from(first <= 5);
                if let Some((_, bytes)) = pointed.filter(|_| found > 0) {
                    bytes[..ABI.info_bytes].copy_from_slice(&info_bytes(self));
                }
                arg[abi::SYSCTL_UNION + 16..abi::SYSCTL_UNION + 20].copy_from_slice(&found.to_le_bytes());
            }
            (abi::DOMCTL, abi::GETDOMAININFO) => {
                versioned(ABI.domctl)?;
                let asked = word(arg, 8) & 0xffff;
                let mut info = info_bytes(self);
                // Dom0 is there too.
                info[0..2].copy_from_slice(&(if asked == 0 { 0_u16 } else { 5 }).to_le_bytes());
                arg[abi::DOMCTL_UNION..abi::DOMCTL_UNION + info.len()].copy_from_slice(&info);
            }
            (abi::DOMCTL, abi::GETPAGEFRAMEINFO3) => {
                versioned(ABI.domctl)?;
                let (_, array) = pointed.unwrap();
                for part in array.chunks_exact_mut(8) {
                    let frame = u64::from_le_bytes(part.try_into().unwrap());
                    let kind: u64 = if self.frames.contains_key(&frame) { 0 } else { 0xf000_0000 };
                    part.copy_from_slice(&kind.to_le_bytes());
                }
            }
            (abi::DOMCTL, abi::GETHVMCONTEXT_PARTIAL) if self.hvm => {
                versioned(ABI.domctl)?;
                assert_eq!(word(arg, abi::DOMCTL_UNION), abi::hvm_cpu::CODE);
                fill(pointed.unwrap().1, word(arg, abi::DOMCTL_UNION + 4))?;
            }
            (abi::DOMCTL, abi::GETVCPUCONTEXT) if !self.hvm => {
                versioned(ABI.domctl)?;
                fill(pointed.unwrap().1, word(arg, abi::DOMCTL_UNION))?;
            }
            (abi::DOMCTL, _) => versioned(ABI.domctl)?,
            (abi::MEMORY_OP, 14) => return Ok(self.frames.keys().last().copied().unwrap_or(0)),
            (abi::MEMORY_OP, _) => arg[24..32].copy_from_slice(&self.on_demand.to_le_bytes()),
            _ => return Ok(4 << 16 | 17),
        }
        Ok(0)
    }

    fn map(&self, _: u16, frames: &[u64]) -> io::Result<Box<dyn Window>> {
        *self.maps.lock().unwrap() += 1;
        if let Some((_, errno)) = self.fails.filter(|(call, _)| *call == u64::MAX) {
            return Err(io::Error::from_raw_os_error(errno));
        }
        let page = |frame: &u64| match (self.broken.get(frame), self.frames.get(frame)) {
            (Some(errno), _) => Err(*errno),
            (None, Some(page)) => Ok(page.clone()),
            (None, None) => Err(libc::EINVAL),
        };
        Ok(Box::new(FakeWindow(frames.iter().map(page).collect())))
    }
}

/// Of a record each eight bytes hold their own place, and the processor's number in the top byte. Number 1 is off line.
fn fill(record: &mut [u8], number: u32) -> io::Result<()> {
    if number == 1 {
        return Err(io::Error::from_raw_os_error(libc::ENODATA));
    }
    for (index, part) in record.chunks_exact_mut(8).enumerate() {
        part.copy_from_slice(&placed(index * 8, number).to_le_bytes());
    }
    Ok(())
}

fn placed(at: usize, number: u32) -> u64 {
    at as u64 | u64::from(number) << 56
}

fn numbered(frames: impl IntoIterator<Item = u64>) -> BTreeMap<u64, Vec<u8>> {
    frames.into_iter().map(|frame| (frame, frame.to_le_bytes().repeat(PAGE / 8))).collect()
}

fn hvm() -> FakeXen {
    FakeXen { hvm: true, frames: numbered((0..0xa0).chain(0x100..0x500)), ..FakeXen::default() }
}

fn opened(xen: FakeXen) -> Xen {
    let info = control::info_of(&xen, ABI, 5).unwrap();
    let (domain, unread) = (describe(&info, None), (!xen.hvm).then(|| info.clone()));
    let frames = if xen.hvm { Frames::of_hvm(&xen, ABI, &info).unwrap() } else { Frames::default() };
    let (reader, windows) = (Box::new(xen), Windows::default());
    Xen { domain, control: None, restricted: true, reader, unread, frames, windows }
}

#[test]
fn the_interface_version_is_probed() {
    assert_eq!(control::probe(&hvm()).unwrap(), Some(ABI));
    assert_eq!(control::release(&hvm()).unwrap(), "4.17");
    let infos = control::list(&hvm(), ABI).unwrap();
    assert_eq!((infos.len(), infos[0].id, infos[0].vcpus), (1, 5, 2));
    assert_eq!(uuid(&infos[0].uuid), "abababab-abab-abab-abab-abababababab");
}

#[test]
fn every_refused_call_is_an_error_that_says_what_was_asked() {
    for (call, errno, wanted) in [
        (abi::MAXIMUM_GPFN, libc::EPERM, "highest frame"),
        (abi::GET_POD_TARGET, libc::EPERM, "populate-on-demand"),
        (abi::GETPAGEFRAMEINFO3.into(), libc::EFAULT, "frames"),
    ] {
        let xen = FakeXen { fails: Some((call, errno)), ..hvm() };
        let info = control::info_of(&xen, ABI, 5).unwrap();
        let error = Frames::of_hvm(&xen, ABI, &info).unwrap_err().to_string();
        assert!(error.starts_with("domain 5: ") && error.contains(wanted), "{error}");
    }
    for call in [abi::GETDOMAININFO, abi::GETDOMAININFOLIST] {
        for (errno, wanted) in [(libc::EACCES, None), (libc::EPERM, Some(None)), (libc::ENOMEM, None)] {
            let xen = FakeXen { fails: Some((call.into(), errno)), ..hvm() };
            // Not allowed to ask is no error: mapping may be allowed.
            assert_eq!(control::probe(&xen).ok(), wanted, "{call} {errno}");
        }
    }
    let gone = FakeXen { fails: Some((abi::GETDOMAININFO.into(), libc::ESRCH)), ..hvm() };
    assert!(matches!(info_of(&gone, ABI, 5).unwrap_err().why, Why::Gone));
    assert!(matches!(info_of(&hvm(), ABI, 4).unwrap_err().why, Why::Gone), "the next domain is not the one");
    let refused = FakeXen { fails: Some((abi::PAUSEDOMAIN.into(), libc::EPERM)), ..hvm() };
    assert!(
        control::pause(&refused, ABI, 5, true).is_err() && control::pause(&refused, ABI, 5, false).is_ok()
    );
}

#[test]
fn a_domain_populated_on_demand_is_not_swept() {
    let xen = FakeXen { on_demand: 7, ..hvm() };
    let info = control::info_of(&xen, ABI, 5).unwrap();
    let error = Frames::of_hvm(&xen, ABI, &info).unwrap_err();
    assert!(matches!(error.why, Why::OnDemand { frames: 7 }), "{error}");
    assert_eq!(*xen.maps.lock().unwrap(), 0);
}

#[test]
fn frames_are_learned_and_read_across_holes_and_windows() {
    let xen = opened(hvm());
    let ranges: Vec<(u64, u64)> =
        xen.ram().iter().map(|range| (range.start.0 >> 12, range.len_bytes >> 12)).collect();
    assert_eq!(ranges, [(0, 0xa0), (0x100, 0x400)]);
    let mut buf = [0; 16];
    // From one window into the next.
    xen.read(Gpa(0x400_000 - 8), &mut buf).unwrap();
    assert_eq!((word(&buf, 0), word(&buf, 8)), (0x3ff, 0x400));
    assert!(matches!(xen.read(Gpa(0x9f_ff8), &mut buf), Err(ReadError::NotRam { .. })));
    assert!(matches!(xen.read(Gpa(0x500_000), &mut buf), Err(ReadError::NotRam { .. })));
}

#[test]
fn frames_that_can_be_mapped_are_found_without_asking() {
    let frames = Frames::by_trying(&hvm(), 5).unwrap();
    assert_eq!(frames.ranges.iter().map(|range| range.len_bytes >> 12).sum::<u64>(), 0x4a0);
    let refused = FakeXen { fails: Some((u64::MAX, libc::EPERM)), ..hvm() };
    assert!(Frames::by_trying(&refused, 5).unwrap_err().to_string().contains("frames"));
}

#[test]
fn a_ballooned_frame_is_absent_and_a_lost_domain_is_lost() {
    let mut xen = hvm();
    xen.broken.insert(0x200, libc::EINVAL);
    let xen = opened(xen);
    let mut buf = [0; 8];
    assert!(matches!(xen.read(Gpa(0x200_000), &mut buf), Err(ReadError::Absent { .. })));
    assert!(xen.read(Gpa(0x201_000), &mut buf).is_ok());
    let mut lost = opened(hvm());
    lost.reader = Box::new(FakeXen { fails: Some((u64::MAX, libc::ESRCH)), ..hvm() });
    assert!(matches!(lost.read(Gpa(0), &mut buf), Err(ReadError::Lost { .. })));
}

#[test]
fn mapped_windows_are_bounded_and_used_again() {
    let xen =
        FakeXen { hvm: true, frames: numbered((0..20).map(|window| window * 1024)), ..FakeXen::default() };
    let windows = Windows::default();
    let part = |number: u64| {
        let frames = (0..1024).map(move |index| (index == 0).then_some(number * 1024));
        windows.get(number, || Part::new(frames, |frames| xen.map(5, frames))).unwrap()
    };
    (0..20).for_each(|number| drop(part(number)));
    assert_eq!(*xen.maps.lock().unwrap(), 20);
    (4..20).for_each(|number| drop(part(number)));
    assert_eq!(*xen.maps.lock().unwrap(), 20, "sixteen are held");
    let mut buf = [0; 8];
    assert!(part(3).copy_out(0, 0, &mut buf).is_ok() && word(&buf, 0) == 3 * 1024);
    assert_eq!(*xen.maps.lock().unwrap(), 21);
    assert!(matches!(part(3).copy_out(1, 0, &mut buf), Err(Missing::NotRam)));
    // What fails lets go of all: the domain may be gone.
    let gone = windows.get(99, || Err(io::Error::from_raw_os_error(libc::ESRCH)));
    assert_eq!(gone.err().and_then(|error| error.raw_os_error()), Some(libc::ESRCH));
    part(3);
    assert_eq!(*xen.maps.lock().unwrap(), 22);
}

/// A PV domain whose list of 600 frames lies at 0xffff880000000000, frame 1 invalid and frame 2 foreign.
fn pv() -> FakeXen {
    let mut xen = FakeXen { frames: numbered(0x1000..0x1000 + 600), ..FakeXen::default() };
    let mut put = |frame: u64, at: usize, value: u64| {
        let page = xen.frames.entry(frame).or_insert_with(|| vec![0; PAGE]);
        page[at..at + 8].copy_from_slice(&value.to_le_bytes());
    };
    put(0x900, abi::MAX_PFN, 600);
    put(0x900, abi::P2M_CR3, 0x901 << 12);
    put(0x900, abi::P2M_VADDR, 0xffff_8800_0000_0000);
    put(0x901, 272 * 8, 0x902 << 12 | 0x63);
    put(0x902, 0, 0x903 << 12 | 0x63);
    put(0x903, 0, 0x904 << 12 | 0x63);
    put(0x904, 0, 0x905 << 12 | 0x63);
    put(0x904, 8, 0x906 << 12 | 0x63);
    for frame in 0..600_u64 {
        let entry = match frame {
            1 => u64::MAX,
            2 => 1 << 63 | 0x1234,
            // Not in order: machine frames go down as guest frames go up.
            _ => 0x1000 + 599 - frame,
        };
        put(0x905 + frame / 512, (frame % 512) as usize * 8, entry);
    }
    xen
}

#[test]
fn a_pv_domain_is_read_by_machine_frames() {
    let xen = pv();
    let info = control::info_of(&xen, ABI, 5).unwrap();
    let frames = Frames::of_pv(&xen, &info).unwrap();
    let ranges: Vec<(u64, u64)> =
        frames.ranges.iter().map(|range| (range.start.0 >> 12, range.len_bytes >> 12)).collect();
    assert_eq!(ranges, [(0, 1), (3, 597)]);
    assert_eq!(
        (frames.to_map(0), frames.to_map(1), frames.to_map(2), frames.to_map(599)),
        (Some(0x1257), None, None, Some(0x1000))
    );
    assert_eq!(
        (frames.of_entry(0x1257), frames.of_entry(0x1256), frames.of_entry(0x1234)),
        (Some(Gfn(0)), None, Some(Gfn(35)))
    );
    assert_eq!(frames.to_map(u64::MAX), None);
}

/// A worker opens it, locks itself down, and only then reads what the guest could have written.
#[test]
fn a_pv_domain_has_no_memory_until_its_list_is_read() {
    let mut xen = opened(pv());
    assert!(xen.ram().is_empty());
    xen.confine();
    xen.learn().unwrap();
    assert_eq!(xen.ram().iter().map(|range| range.len_bytes >> 12).sum::<u64>(), 598);
    xen.learn().unwrap();
    assert_eq!(xen.ram().len(), 2);
}

#[test]
fn a_pv_domain_that_lies_about_its_frames_is_an_error() {
    let with = |at: usize, value: u64| {
        let mut xen = pv();
        xen.frames.get_mut(&0x900).unwrap()[at..at + 8].copy_from_slice(&value.to_le_bytes());
        let info = control::info_of(&xen, ABI, 5).unwrap();
        Frames::of_pv(&xen, &info)
    };
    assert!(with(abi::MAX_PFN, 1 << 40).unwrap_err().to_string().contains("longer"));
    assert!(with(abi::P2M_CR3, 0).unwrap_err().to_string().contains("registers no linear"));
    // Page tables that are not there, or itself: no frames, no end of time.
    assert!(with(abi::P2M_CR3, 0xdead_f000).unwrap().ranges.is_empty());
    assert!(with(abi::P2M_VADDR, 0x1000).unwrap().ranges.is_empty());
    let gone = FakeXen { broken: BTreeMap::from([(0x900, libc::EINVAL)]), ..pv() };
    let info = control::info_of(&gone, ABI, 5).unwrap();
    assert!(Frames::of_pv(&gone, &info).unwrap_err().to_string().contains("shared info"));
}

/// A XenStore that gives prepared answers.
struct Answers(Cursor<Vec<u8>>);

impl Read for Answers {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

impl Write for Answers {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        Ok(buf.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn store(answers: &[(u32, &[u8])]) -> XenStore {
    let mut bytes = Vec::new();
    for (kind, text) in answers {
        bytes.extend([*kind, 1, 0, text.len() as u32].iter().flat_map(|word| word.to_le_bytes()));
        bytes.extend(*text);
    }
    XenStore::over(Answers(Cursor::new(bytes)))
}

#[test]
fn xenstore_answers_are_read_and_refused() {
    assert_eq!(store(&[(2, b"web-1")]).read("name").unwrap().as_deref(), Some("web-1"));
    assert_eq!(store(&[(15, b"x\0y\0"), (2, b"web-1")]).read("name").unwrap().as_deref(), Some("web-1"));
    assert_eq!(store(&[(1, b"0\x001\0")]).list("vif").unwrap(), ["0", "1"]);
    assert_eq!(store(&[(16, b"ENOENT\0")]).read("name").unwrap(), None);
    assert!(store(&[(16, b"EACCES\0")]).read("name").unwrap_err().to_string().contains("EACCES"));
    assert!(store(&[(1, b"")]).read("name").is_err() && store(&[]).read("name").is_err());
    let mut long = [2_u32, 1, 0, 1 << 30].map(u32::to_le_bytes).concat();
    long.extend([0; 64]);
    assert!(XenStore::over(Answers(Cursor::new(long))).read("name").is_err());
    assert!(store(&[]).read(&"x".repeat(5000)).is_err());
}

#[test]
fn a_handle_that_cannot_be_restricted_is_refused_unless_allowed() {
    let failed = || Err(io::Error::from_raw_os_error(libc::ENOTTY));
    assert!(matches!(judge(Ok(()), false), Ok(true)));
    assert!(matches!(judge(failed(), true), Ok(false)));
    let refused = judge(failed(), false).unwrap_err();
    assert!(refused.to_string().contains("--allow-unrestricted"), "{refused}");
}

#[test]
fn watches_wait_for_their_events_and_pass_over_the_rest() {
    let answers: &[(u32, &[u8])] =
        &[(4, b"OK\0"), (15, b"@introduceDomain\0@introduceDomain\0"), (2, b"late"), (15, b"x\0x\0")];
    let mut watching = store(answers);
    watching.watch("@introduceDomain").unwrap();
    watching.wait().unwrap();
    watching.wait().unwrap();
    assert_eq!(watching.wait().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    assert!(store(&[(16, b"EACCES\0")]).watch("@releaseDomain").is_err());
}

#[test]
fn registers_are_told_of_processors_that_are_on_line() {
    let told = registers::all(&hvm(), ABI, 5, DomainKind::Hvm).unwrap();
    let wanted = |number| Processor {
        number,
        cr0: Some(placed(656, number)),
        cr3: Some(placed(672, number)),
        cr4: Some(placed(680, number)),
        idt_base: Some(placed(872, number)),
        syscall: Some(placed(960, number)),
        compat_syscall: Some(placed(976, number)),
        sysenter: Some(placed(936, number)),
        upcalls: Vec::new(),
    };
    assert_eq!(told, [wanted(0), wanted(2)]);
    let told = registers::all(&FakeXen::default(), ABI, 5, DomainKind::Pv).unwrap();
    assert_eq!(told.iter().map(|processor| processor.number).collect::<Vec<_>>(), [0, 2]);
    let upcalls = &told[1].upcalls;
    assert_eq!(upcalls.len(), 256 + 3);
    assert_eq!(upcalls[14], Upcall { on: UpcallKind::Trap(14), to: placed(720 + 14 * 16 + 8, 2) });
    assert_eq!(upcalls[258], Upcall { on: UpcallKind::Syscall, to: placed(5128, 2) });
    let denied = FakeXen { fails: Some((abi::GETVCPUCONTEXT.into(), libc::EPERM)), ..FakeXen::default() };
    let refused = registers::all(&denied, ABI, 5, DomainKind::Pv);
    assert!(matches!(refused, Err(ControlError::Refused(_))), "{refused:?}");
}

#[test]
fn a_cards_addresses_are_those_that_the_toolstack_wrote() {
    let told = |text| super::addresses(text).iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(told("10.0.0.2 fd00::2/64  10.0.0.3/24"), ["10.0.0.2", "fd00::2", "10.0.0.3"]);
    assert_eq!(told("dhcp 10.0.0.2/x/y 10.0.0"), ["10.0.0.2"]);
    assert!(told("").is_empty());
}
