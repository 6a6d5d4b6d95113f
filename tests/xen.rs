//! Everything that works on QEMU guests works on Xen's domains: real Xen, a service domain, PV and PVH guests. The checks run in the
//! service domain (`lab/dom0`); here they are started, and their log is kept and shown on failure.

use anyhow::Result;
use lynceus_lab::xen;

#[test]
fn pv_and_pvh_guests_from_a_service_domain() -> Result<()> {
    xen::run_all(&xen::MATRIX).map(drop)
}
