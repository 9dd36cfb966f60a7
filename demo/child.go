package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
)

// A child is the projection's process, as the demo sees it, over all its lives.
type child struct {
	db    *database
	meter meter
	fail  func(error) // receives the error of a process that ends by itself

	mu     sync.Mutex // guards what follows
	life   *life
	status projectionStatus
}

// A life is one process.
type life struct {
	cmd    *exec.Cmd
	stdin  io.Closer
	stderr bytes.Buffer
	ended  chan struct{}
	err    error       // once ended is closed
	wanted atomic.Bool // the end
}

// start starts the process, which goes on after its stored position.
func (c *child) start() error {
	program, err := os.Executable()
	if err != nil {
		return err
	}
	l := &life{cmd: exec.Command(program, projectionCommand, c.db.run), ended: make(chan struct{})} //nolint:gosec // this program
	l.cmd.Env = append(os.Environ(), "DATABASE_URL="+c.db.url)
	l.cmd.Stderr = &l.stderr
	if l.stdin, err = l.cmd.StdinPipe(); err != nil {
		return err
	}
	stdout, err := l.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := l.cmd.Start(); err != nil {
		return err
	}
	c.mu.Lock()
	c.life = l
	c.mu.Unlock()
	go func() {
		defer close(l.ended)
		c.listen(stdout)
		l.err = l.cmd.Wait()
		if !l.wanted.Load() {
			c.fail(fmt.Errorf("the projection's process has ended: %w: %s", l.err, bytes.TrimSpace(l.stderr.Bytes())))
		}
	}()
	return nil
}

// listen takes in the reports until the process ends.
func (c *child) listen(stdout io.Reader) {
	for reports := json.NewDecoder(stdout); ; {
		var s projectionStatus
		if reports.Decode(&s) != nil {
			return
		}
		c.mu.Lock()
		c.status = s
		c.mu.Unlock()
		for _, took := range s.Took {
			c.meter.record(took)
		}
	}
}

func (c *child) handled() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.status.Handled
}

// kill ends the process as kill -9 does, and returns its process ID.
func (c *child) kill() (pid int) {
	l := c.end()
	_ = l.cmd.Process.Kill()
	<-l.ended
	return l.cmd.Process.Pid
}

// stop ends the process by ending its standard input.
func (c *child) stop() error {
	l := c.end()
	_ = l.stdin.Close()
	<-l.ended
	if l.err != nil {
		return fmt.Errorf("the projection's process: %w: %s", l.err, bytes.TrimSpace(l.stderr.Bytes()))
	}
	return nil
}

func (c *child) end() *life {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.life.wanted.Store(true)
	return c.life
}

// alive reports whether the process runs.
func (c *child) alive() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-c.life.ended:
		return false
	default:
		return true
	}
}
