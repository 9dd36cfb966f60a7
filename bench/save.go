package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/pprof"
	"strings"
)

// save writes the samples as the options say.
func save(o options, samples []sample) error {
	if o.gobench != "" {
		if err := appendGoBench(o.gobench, samples); err != nil {
			return err
		}
	}
	if o.out == "" {
		return nil
	}
	data, err := json.Marshal(samples)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(o.out, "samples.json"), data, 0o600); err != nil {
		return err
	}
	if text := readmeTable(filepath.Base(o.out), samples); text != "" {
		if err := os.WriteFile(filepath.Join(o.out, "table.md"), []byte(text), 0o600); err != nil {
			return err
		}
	}
	return ratiosChart(filepath.Join(o.out, "ratios.svg"), samples)
}

var notOfNames = regexp.MustCompile(`[^A-Za-z0-9]+`)

// appendGoBench writes a line a sample in the format of go test -bench, which benchstat reads.
func appendGoBench(file string, samples []sample) error {
	f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	for _, s := range samples {
		_, _ = fmt.Fprintf(f, "Benchmark%s/%s %d %.0f ns/op %.0f B/op %.0f allocs/op\n",
			strings.Trim(notOfNames.ReplaceAllString(s.Case, "_"), "_"), strings.Trim(notOfNames.ReplaceAllString(s.Rival, "_"), "_"),
			s.Ops, s.NsPerOp, s.BytesPerOp, s.AllocsPerOp)
	}
	return f.Close()
}

// machine describes what this runs on, and which commit it is.
func machine() string {
	return fmt.Sprintf("%s for clients and server together; %s on %s; commit %s", shortMachine(), runtime.Version(), runtime.GOOS, commit())
}

// commit names the one that is measured, and says so if it has been changed.
func commit() string {
	out, err := exec.Command("git", "describe", "--always").Output()
	if err != nil {
		return "unknown"
	}
	name := strings.TrimSpace(string(out))
	// A report that is being written is no change.
	if exec.Command("git", "diff", "--quiet", "HEAD", "--", ":/", ":(top,exclude)bench/results").Run() != nil {
		name += "-dirty"
	}
	return name
}

func shortMachine() string {
	model := runtime.GOARCH
	if data, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		if m := regexp.MustCompile(`(?m)^model name\s*: (.*)$`).FindSubmatch(data); m != nil {
			model = string(m[1])
		}
	}
	return fmt.Sprintf("%s, %d CPUs", model, runtime.NumCPU())
}

// startProfile writes what the process does until stop is called.
func startProfile(folder string) (stop func() error, err error) {
	if folder == "" {
		return func() error { return nil }, nil
	}
	if err := os.MkdirAll(folder, 0o750); err != nil {
		return nil, err
	}
	cpu, err := os.Create(filepath.Join(folder, "cpu.pprof"))
	if err != nil {
		return nil, err
	}
	runtime.MemProfileRate = 512
	if err := pprof.StartCPUProfile(cpu); err != nil {
		return nil, err
	}
	return func() error {
		pprof.StopCPUProfile()
		if err := cpu.Close(); err != nil {
			return err
		}
		memory, err := os.Create(filepath.Join(folder, "memory.pprof"))
		if err != nil {
			return err
		}
		defer memory.Close() //nolint:errcheck // the profile was written
		return pprof.Lookup("allocs").WriteTo(memory, 0)
	}, nil
}
