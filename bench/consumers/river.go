package main

import (
	"context"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

// A deposit is a job that does what handlers do with a message.
type deposit struct {
	Account string `json:"account"`
}

// Kind names the jobs.
func (deposit) Kind() string { return "deposit" }

// A depositor does these jobs.
type depositor struct {
	river.WorkerDefaults[deposit]

	work func(ctx context.Context, job *river.Job[deposit]) error
}

func (d *depositor) Work(ctx context.Context, job *river.Job[deposit]) error { return d.work(ctx, job) }

// riverWays are the ways of River. It keeps no order of the jobs of an account, and they have to be inserted, which is measured
// by a way of its own.
func (e *environment) riverWays() []way {
	return []way{
		{name: "River, a job for each message", size: little, many: true, run: e.doJobs(func(ctx context.Context, job *river.Job[deposit]) error {
			_, err := e.store.Pool().Exec(ctx, sqlEffect, job.Args.Account)
			return err
		})},
		{name: riverTx, size: little, many: true, run: e.doJobs(func(ctx context.Context, job *river.Job[deposit]) error {
			return pgx.BeginFunc(ctx, e.store.Pool(), func(tx pgx.Tx) error {
				if _, err := tx.Exec(ctx, sqlEffect, job.Args.Account); err != nil {
					return err
				}
				_, err := river.JobCompleteTx[*riverpgxv5.Driver](ctx, tx, job)
				return err
			})
		})},
		{name: "River, only the insertion of jobs, by `InsertManyFast`", size: fifth, nothing: true, single: true, run: func(ctx context.Context, r run) error {
			client, err := e.river(ctx, &river.Config{})
			if err != nil {
				return err
			}
			e.begin()
			for i := 0; i < r.messages; i += most {
				n := min(most, r.messages-i)
				if err := insertJobs(ctx, client, i, n); err != nil {
					return err
				}
				e.handled.Add(int64(n))
			}
			<-ctx.Done()
			return context.Cause(ctx)
		}},
	}
}

// river returns a client after it has deleted all jobs.
func (e *environment) river(ctx context.Context, c *river.Config) (*river.Client[pgx.Tx], error) {
	if _, err := e.jobs.Exec(ctx, "TRUNCATE public.river_job"); err != nil {
		return nil, err
	}
	c.Logger = slog.New(slog.DiscardHandler)
	return river.NewClient(riverpgxv5.New(e.jobs), c)
}

// installRiver creates River's tables.
func (e *environment) installRiver(ctx context.Context) error {
	m, err := rivermigrate.New(riverpgxv5.New(e.jobs), &rivermigrate.Config{Logger: slog.New(slog.DiscardHandler)})
	if err == nil {
		_, err = m.Migrate(ctx, rivermigrate.DirectionUp, nil)
	}
	return err
}

// insertJobs inserts the jobs of messages that have the same accounts as those of the store.
func insertJobs(ctx context.Context, client *river.Client[pgx.Tx], from, n int) error {
	jobs := make([]river.InsertManyParams, n)
	for i := range jobs {
		jobs[i].Args = deposit{Account: account(from + i)}
	}
	_, err := client.InsertManyFast(ctx, jobs)
	return err
}

// doJobs inserts the jobs, and then lets River do them. It fetches jobs as often as it can.
func (e *environment) doJobs(work func(context.Context, *river.Job[deposit]) error) func(context.Context, run) error {
	return func(ctx context.Context, r run) error {
		workers := river.NewWorkers()
		river.AddWorker(workers, &depositor{work: func(ctx context.Context, job *river.Job[deposit]) error {
			e.begin()
			return work(ctx, job)
		}})
		client, err := e.river(ctx, &river.Config{
			FetchCooldown: river.FetchCooldownMin, FetchPollInterval: river.FetchPollIntervalMin,
			Queues: map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: r.workers}}, Workers: workers,
		})
		if err != nil {
			return err
		}
		if err := insertJobs(ctx, client, 0, r.messages); err != nil {
			return err
		}
		if _, err := e.jobs.Exec(ctx, "VACUUM ANALYZE public.river_job"); err != nil {
			return err
		}
		if err := client.Start(context.WithoutCancel(ctx)); err != nil {
			return err
		}
		<-ctx.Done()
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		if err := client.Stop(stop); err != nil {
			return err
		}
		return context.Cause(ctx)
	}
}
