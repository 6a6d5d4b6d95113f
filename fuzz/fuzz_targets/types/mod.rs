//! Everything that can be asked of types.

use lynceus_profiles::compare::compare;
use lynceus_profiles::{Profile, Types, isf};

/// Asks for every structure, member and member of a member; writes the types out as symbols and compares them.
pub fn look_up(types: &Types) {
    for ty in types.record_names().take(200) {
        types.size_of(ty);
        for (name, field) in types.members_of(ty).unwrap_or_default().into_iter().take(50) {
            if !name.is_empty() && types.field(ty, name).is_ok() {
                let _ = types.field(ty, &format!("{name}.{name}"));
            }
            let _ = field.kind;
        }
        assert!(types.field(ty, "no such member").is_err());
    }
    let profile = Profile { types: types.clone(), ..Profile::default() };
    let mut changed = profile.clone();
    changed.identity.banner.push('!');
    assert_eq!(compare(&profile, &changed).total, 0);
    let _ = isf::write(&profile, &mut std::io::sink());
}
