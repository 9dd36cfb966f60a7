package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"time"
)

// pgbench runs SQL with PostgreSQL's own client, which is written in C and decodes nothing.
type pgbench struct{ program, url, folder string }

func newPgbench(url, folder string) (*pgbench, error) {
	program, err := exec.LookPath("pgbench")
	if err != nil {
		found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/pgbench")
		if len(found) == 0 {
			return nil, errors.New("pgbench is missing, install it (Debian: postgresql)")
		}
		program = found[len(found)-1]
	}
	return &pgbench{program, url, folder}, nil
}

var transactions = regexp.MustCompile(`(?m)^tps = ([0-9.]+)`)

// run returns how long ops took on as many connections as workers.
func (p *pgbench) run(ctx context.Context, script string, ops, workers int) (time.Duration, error) {
	file := filepath.Join(p.folder, "script.sql")
	if err := os.WriteFile(file, []byte(script), 0o600); err != nil {
		return 0, err
	}
	each := max(1, ops/workers)
	out, err := exec.CommandContext(ctx, p.program, "-n", "-M", "prepared", "-f", file,
		"-c", strconv.Itoa(workers), "-t", strconv.Itoa(each), p.url).CombinedOutput()
	found := transactions.FindSubmatch(out)
	if err != nil || found == nil {
		return 0, fmt.Errorf("pgbench: %w: %s", err, out)
	}
	tps, err := strconv.ParseFloat(string(found[1]), 64)
	if err != nil {
		return 0, err
	}
	return time.Duration(float64(ops) / tps * float64(time.Second)), nil
}

// variant returns one that runs the script.
func (p *pgbench) variant(script string) variant {
	return variant{name: "pgbench", many: func(ctx context.Context, ops, workers int) (time.Duration, error) {
		return p.run(ctx, script, ops, workers)
	}}
}
