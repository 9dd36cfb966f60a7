// Package consumer runs handlers for the messages of a category. Progress is stored in the
// database, and processes that run the same consumer share its messages.
package consumer
