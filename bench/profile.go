package main

import (
	"os"
	"path/filepath"
	"runtime"
	"runtime/pprof"
)

// startProfile writes profiles of the process until stop is called.
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
