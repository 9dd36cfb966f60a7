//go:build unix && !aix && !solaris

package pgtest

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/messagedb-go/messagedb/internal/backoff"
)

// A lister prepares for a list of the processes that the main process has started, and
// returns the function that makes it.
type lister func() (list func() ([]int, error), err error)

// freeze stops all processes of the server without ending them. The main process is stopped
// before the list is made, so that it starts no others.
func (p *process) freeze(prepare lister) error {
	if p.frozen != nil {
		return nil
	}
	list, err := prepare()
	if err != nil {
		return err
	}
	postmaster, err := p.postmaster()
	if err != nil {
		return err
	}
	if err := syscall.Kill(postmaster, syscall.SIGSTOP); err != nil {
		return fmt.Errorf("pgtest: stop process %d: %w", postmaster, err)
	}
	p.frozen = []int{postmaster}
	children, err := list()
	if err != nil {
		return errors.Join(err, p.thaw())
	}
	p.frozen = append(p.frozen, children...)
	return signal(children, syscall.SIGSTOP)
}

func (p *process) thaw() error {
	err := signal(p.frozen, syscall.SIGCONT)
	p.frozen = nil
	return err
}

// kill kills all processes, and returns when the server listens no longer.
func (p *process) kill(prepare lister) error {
	if err := p.freeze(prepare); err != nil {
		return err
	}
	err := signal(p.frozen, syscall.SIGKILL)
	p.frozen = nil
	for answers(p.dir) {
		_ = backoff.Sleep(context.Background(), time.Millisecond)
	}
	return err
}

// signal sends a signal to processes of which some may have ended.
func signal(pids []int, s syscall.Signal) error {
	for _, pid := range pids {
		if err := syscall.Kill(pid, s); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("pgtest: %s to process %d: %w", s, pid, err)
		}
	}
	return nil
}
