// Package testdata holds what the tests know as data: calls and what they have to
// answer.
package testdata

import "embed"

// Conformance holds the folder conformance, which is the data of
// mdbtest.Conformance. In its texts {category} stands for a category that nothing
// else uses, {stream} for a stream of it that has one message with the ID {id},
// {new} for one that has none, and {origin} for another category.
//
//go:embed conformance
var Conformance embed.FS
