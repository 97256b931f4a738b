use super::*;

const OPEN: TenantClass = TenantClass(0);
const KEPT: TenantClass = TenantClass(1);

fn point(parent: Option<u32>, cap_watts: i64, floors: &[(TenantClass, i64)]) -> PowerSpec {
    PowerSpec { parent: parent.map(PowerId), cap_watts, floors: floors.to_vec() }
}

/// A site of 1,000 W with 300 W kept for one class; two rows of 600 W, two racks of 400 W in the first.
fn tree() -> PowerTree {
    PowerTree::new(&[
        point(None, 1000, &[(KEPT, 300)]),
        point(Some(0), 600, &[]),
        point(Some(0), 600, &[]),
        point(Some(1), 400, &[]),
        point(Some(1), 400, &[]),
    ])
}

#[test]
fn watts_fit_up_to_the_tightest_cap_above() {
    let mut tree = tree();
    tree.add(PowerId(3), OPEN, 300);
    assert_eq!(tree.fits(PowerId(4), OPEN, 300), Ok(()));
    let block = tree.fits(PowerId(4), OPEN, 301).unwrap_err();
    assert_eq!(
        block,
        PowerBlock { power: PowerId(1), cap_watts: 600, committed_watts: 300, kept_watts: 0, asked_watts: 301 }
    );
}

#[test]
fn a_floor_is_kept_from_others_and_open_to_its_class() {
    let mut tree = tree();
    tree.add(PowerId(2), OPEN, 600);
    let block = tree.fits(PowerId(3), OPEN, 101).unwrap_err();
    assert_eq!((block.power, block.kept_watts, block.committed_watts), (PowerId(0), 300, 600));
    assert_eq!(tree.fits(PowerId(3), OPEN, 100), Ok(()));
    assert_eq!(tree.fits(PowerId(3), KEPT, 400), Ok(()));
    // What the class has taken is no longer kept: the floor counts once.
    tree.add(PowerId(3), KEPT, 250);
    assert_eq!(tree.room(PowerId(0), OPEN), 100);
    assert_eq!(tree.reserved(PowerId(0)), 900);
}

#[test]
fn the_tightest_point_is_named_not_the_first() {
    let mut tree = tree();
    tree.add(PowerId(2), OPEN, 600);
    // The rack is 100 W short, the site 400 W.
    assert_eq!(tree.fits(PowerId(3), OPEN, 500).unwrap_err().power, PowerId(0));
}

#[test]
fn a_gang_is_counted_together_and_leaves_no_trace() {
    let mut tree = tree();
    let before = tree.clone();
    assert_eq!(tree.fits_many(&[PowerId(3), PowerId(4)], OPEN, 300), Ok(()));
    let block = tree.fits_many(&[PowerId(2), PowerId(3), PowerId(3), PowerId(4)], OPEN, 201).unwrap_err();
    assert_eq!((block.power, block.asked_watts, block.committed_watts), (PowerId(3), 402, 0));
    assert_eq!(tree, before);
}

#[test]
fn members_are_counted_from_a_point_up() {
    let mut tree = tree();
    assert_eq!(tree.members_that_fit(PowerId(1), OPEN, 100), 6);
    assert_eq!(tree.members_that_fit(PowerId(0), OPEN, 100), 7);
    assert_eq!(tree.members_that_fit(PowerId(0), KEPT, 100), 10);
    tree.set_cap(PowerId(0), 0);
    assert_eq!(tree.members_that_fit(PowerId(1), OPEN, 100), 0);
    assert_eq!(tree.members_that_fit(PowerId(1), OPEN, 0), u32::MAX);
}

#[test]
fn a_cap_below_what_is_committed_admits_nothing() {
    let mut tree = tree();
    tree.add(PowerId(3), OPEN, 400);
    tree.set_cap(PowerId(1), 350);
    assert_eq!(tree.over_cap().collect::<Vec<_>>(), [(PowerId(1), 50)]);
    assert!(tree.fits(PowerId(4), OPEN, 1).is_err());
    assert!(tree.fits(PowerId(4), KEPT, 1).is_err());
    assert_eq!(tree.fits(PowerId(4), OPEN, 0), Ok(()));
    tree.remove(PowerId(3), OPEN, 400);
    assert_eq!(tree.fits(PowerId(4), OPEN, 350), Ok(()));
}

#[test]
fn what_is_added_and_removed_leaves_the_same_state() {
    let mut tree = tree();
    let before = tree.clone();
    for (leaf, class, watts) in [(3, OPEN, 700), (4, KEPT, 120), (2, KEPT, 900), (0, OPEN, 5)] {
        tree.add(PowerId(leaf), class, watts);
    }
    for (leaf, class, watts) in [(2, KEPT, 900), (3, OPEN, 700), (0, OPEN, 5), (4, KEPT, 120)] {
        tree.remove(PowerId(leaf), class, watts);
    }
    assert_eq!(tree, before);
}

#[test]
fn without_a_power_tree_everything_fits() {
    let mut tree = PowerTree::new(&[]);
    tree.add(PowerId(7), OPEN, 100);
    assert_eq!(tree.fits(PowerId(7), OPEN, i64::MAX), Ok(()));
    assert_eq!(tree.members_that_fit(PowerId(7), OPEN, 1), u32::MAX);
}
