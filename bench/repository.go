package main

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
)

// written are the files that a report is written to, which do not count as changes.
var written = []string{":(top,exclude)bench/results", ":(top,exclude)README.md"}

// changes lists the files that differ from the commit, untracked ones included.
func changes(ctx context.Context) ([]string, error) {
	args := append([]string{"status", "--porcelain", "--", ":/"}, written...)
	out, err := exec.CommandContext(ctx, "git", args...).Output()
	if err != nil {
		return nil, fmt.Errorf("git status: %w", err)
	}
	return strings.FieldsFunc(string(out), func(r rune) bool { return r == '\n' }), nil
}

// checkClean returns an error if the results could not be named by a commit.
func checkClean(ctx context.Context) error {
	changed, err := changes(ctx)
	if err != nil {
		return err
	}
	if len(changed) > 0 {
		return fmt.Errorf("-out records a commit, but the tree has %d uncommitted changes, such as %q: commit or stash them",
			len(changed), strings.TrimSpace(changed[0][2:]))
	}
	return nil
}

// commit names the commit that is measured, with "-dirty" if the tree has changes.
func commit(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, "git", "describe", "--always").Output()
	if err != nil {
		return "unknown"
	}
	name := strings.TrimSpace(string(out))
	if changed, err := changes(ctx); err != nil || len(changed) > 0 {
		name += "-dirty"
	}
	return name
}
