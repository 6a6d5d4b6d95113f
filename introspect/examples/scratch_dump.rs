use lynceus_introspect::backend::dump::{Dump, write::*};
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let d = Dump::open(a[1].as_ref()).unwrap();
    let f = if a[3] == "elf" { WriteFormat::Elf } else { WriteFormat::Lime };
    let t = std::time::Instant::now();
    println!("{:?} {:?}", write_file(&d, a[2].as_ref(), f, Existing::Replace, &mut |_, _| ()), t.elapsed());
}
