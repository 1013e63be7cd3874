#!/bin/sh
# Shows that the models would notice a fault: adds every mutant to a copy of the sources, builds
# the copy once for the model checker, and runs the model of each mutant, which must fail.
#
#   tests/mutants.sh         all of that
#   tests/mutants.sh tree    only makes the copy, target/mutants/tree, and prints its path
#   tests/mutants.sh edit    makes a copy that can be edited, target/mutants/edit
#   tests/mutants.sh save    writes the patches anew from the edited copy, and removes it
#
# tests/mutants/src mirrors src: `x.rs.patch` adds mutants to `src/x.rs`; `x.rs` is a file that
# only the copy has. `mutants.rs` lists all mutants; the files in `mutants`, one for each part,
# name the model that must fail for each.
#
# To mend a patch that no longer applies, or to add a mutant:
#
#   1. tests/mutants.sh edit. It names each `x.rs.rej`, which has the parts of a patch that do not
#      fit `x.rs`.
#   2. In the copy, write these parts into `x.rs` and remove `x.rs.rej`; or add the new mutant.
#   3. tests/mutants.sh save
#   4. tests/mutants.sh, and commit the patches together with the change of the sources.
set -eu
cd "$(dirname "$0")/.."
mkdir -p "${CARGO_TARGET_DIR:-target}/mutants"
copies=$(cd "${CARGO_TARGET_DIR:-target}/mutants" && pwd)
tree=$copies/tree
edit=$copies/edit
patches=$PWD/tests/mutants/src

fail() {
    echo "$*" >&2
    exit 1
}

# Prints the names of the files in a folder, without the folder's name.
files() {
    (cd "$1" && find . -type f | sed 's|^\./||' | sort)
}

# Copies to the folder $1 what the library and its tests are compiled from.
copy() {
    rm -rf "$1"
    mkdir -p "$1"
    for path in Cargo.toml Cargo.lock rustfmt.toml README.md src tests benches crates \
        examples/*.* fuzz/inside; do
        [ ! -e "$path" ] || cp -a --parents "$path" "$1"
    done
}

# Adds the mutants to the copy in the folder $1. What follows is given to `git apply`. Prints the
# patches that do not apply.
add_mutants() {
    folder=$1
    shift
    for name in $(files "$patches"); do
        case $name in
            # The ceiling hides the repository around the copy: git would skip ignored files.
            *.patch)
                GIT_CEILING_DIRECTORIES=$copies git -C "$folder" apply "$@" "$patches/$name" \
                    2>"$copies/said" || { echo "$name" && cat "$copies/said" >&2; }
                ;;
            *) mkdir -p "$(dirname "$folder/src/$name")" && cp "$patches/$name" "$folder/src/$name" ;;
        esac
    done
}

make_tree() {
    copy "$tree.new"
    broken=$(add_mutants "$tree.new")
    [ -z "$broken" ] || fail "these patches in tests/mutants/src do not apply:
$broken
To mend them: tests/mutants.sh edit, correct the copy, tests/mutants.sh save (see the script's head)."
    # Files that did not change keep their time, so that cargo compiles only what it must.
    for name in $(files "$tree.new"); do
        if cmp -s "$tree/$name" "$tree.new/$name"; then
            touch -r "$tree/$name" "$tree.new/$name"
        else
            touch "$tree.new/$name"
        fi
    done
    rm -rf "$tree"
    mv "$tree.new" "$tree"
}

run() {
    make_tree
    # Other libraries are taken from the models' build, if there is one. The copy has a directory of its
    # own: cargo cannot tell the copy's library from the original.
    if [ ! -e "$copies/build" ] && [ -e "$copies/../loom" ]; then
        cp -a "$copies/../loom" "$copies/build"
        rm -rf "$copies/build/release/.fingerprint"/slipring-*
    fi
    cd "$tree"
    RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR="$copies/build" \
        cargo test -p slipring --release --lib -- --nocapture mutants::
}

start_edit() {
    [ ! -e "$edit" ] || fail "$edit exists: save it (tests/mutants.sh save) or remove it"
    copy "$copies/base"
    copy "$edit"
    broken=$(add_mutants "$edit" --reject)
    echo "edit $edit/src, then: tests/mutants.sh save"
    for name in $broken; do
        rejected=$edit/src/${name%.patch}.rej
        # Git writes none for a file that is gone.
        [ -e "$rejected" ] || { mkdir -p "$(dirname "$rejected")" && cp "$patches/$name" "$rejected"; }
        echo "does not fit: $rejected"
    done
}

save() {
    [ -e "$edit" ] || fail "there is no $edit: make it with tests/mutants.sh edit"
    left=$(find "$edit/src" -name '*.rej')
    [ -z "$left" ] || fail "write these mutants into their files, and remove:
$left"
    (cd "$edit" && cargo fmt -p slipring)
    rm -rf "$patches"
    for name in $(files "$edit/src"); do
        base=$copies/base/src/$name
        ! cmp -s "$base" "$edit/src/$name" || continue
        mkdir -p "$(dirname "$patches/$name")"
        if [ -e "$base" ]; then
            # A difference, which is what there is here, is 1.
            diff -U1 -F '^ *\(pub.* \)\?fn ' --label "a/src/$name" --label "b/src/$name" \
                "$base" "$edit/src/$name" >"$patches/$name.patch" || [ $? = 1 ]
        else
            cp "$edit/src/$name" "$patches/$name"
        fi
    done
    rm -rf "$edit" "$copies/base"
}

case ${1:-run} in
    run) run ;;
    tree) make_tree && echo "$tree" ;;
    edit) start_edit ;;
    save) save ;;
    *) fail "tree, edit, save, or nothing to run the mutants" ;;
esac
