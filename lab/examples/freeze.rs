//! Freezes a guest: `freeze KERNEL(5.10|6.1|6.12|7.x) LEVELS(4|5) [MEMORY_MIB [VCPUS]]`, and prints where its RAM is.

use anyhow::{Context, Result};
use lynceus_lab::{KernelVersion, Paging, Spec, images};

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let text = |index: usize| args.get(index).map(String::as_str).unwrap_or_default();
    let kernel = KernelVersion::ALL.into_iter().find(|kernel| kernel.to_string() == text(0));
    let kernel = kernel.with_context(|| format!("no kernel {:?}", text(0)))?;
    let paging = if text(1) == "5" { Paging::Five } else { Paging::Four };
    let spec = Spec::new(kernel, paging);
    let memory_mib = text(2).parse().unwrap_or(spec.memory_mib);
    let vcpus = text(3).parse().unwrap_or(spec.vcpus);
    println!("{}", images::frozen(&Spec { memory_mib, vcpus, ..spec })?.ram.display());
    Ok(())
}
