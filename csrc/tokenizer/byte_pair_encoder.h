// Byte-pair encoding: words of bytes to token ids, by merges in order of rank.
#pragma once

#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace llama_rt {

// Two tokens side by side that may become one. Of all pairs in a word the one of lowest rank is
// joined first, of equal ranks the leftmost.
struct Merge {
  int32_t left;
  int32_t right;
  int32_t rank;
  int32_t result;
};

// Immutable after construction; threads may share it.
class BytePairEncoder {
 public:
  // `tokens` are the bytes of each id, empty where no text becomes it. With `whole_words` a word
  // that is a token is that token, whatever the merges make of it. Throws ConfigError if a merge
  // names an id that is not in `tokens`.
  BytePairEncoder(const std::vector<std::string>& tokens, std::span<const Merge> merges,
                  bool whole_words);

  // Appends the ids of one word after the other. Bytes without a token are left out.
  void encode(std::span<const std::string_view> words, std::vector<int32_t>& ids) const;

 private:
  // Merges by pair of ids in open addressing: one probe, mostly, in one cache line.
  struct Slot {
    uint64_t pair = kNoPair;
    int32_t rank = 0;
    int32_t result = 0;
  };
  static constexpr uint64_t kNoPair = std::numeric_limits<uint64_t>::max();

  // A token of the word, in a doubly linked list over positions; `id` is -1 when it was joined to
  // the one before.
  struct Symbol {
    int32_t id;
    int32_t previous;
    int32_t next;
  };
  struct Candidate {
    int32_t rank;
    int32_t position;
    int32_t result;
  };
  // Scratch of one call, reused from word to word.
  struct Scratch {
    std::vector<Symbol> symbols;
    std::vector<Candidate> heap;
  };

  void add_merge(const Merge& merge);
  const Slot* find(int32_t left, int32_t right) const;
  static bool is_later(const Candidate& a, const Candidate& b);
  void push_candidate(int32_t position, Scratch& scratch) const;
  void encode_word(std::string_view word, Scratch& scratch, std::vector<int32_t>& ids) const;

  std::string bytes_;  // all tokens, one after the other: what the keys below point into
  std::unordered_map<std::string_view, int32_t> ids_;
  std::vector<Slot> merges_;
  uint64_t mask_ = 0;
  int32_t byte_ids_[256];
  bool whole_words_;
};

// The merges of a vocabulary that gives ranks to tokens instead of merges (tiktoken): every way to
// cut a token in two tokens, with its id as the rank.
std::vector<Merge> merges_of_ranks(const std::vector<std::string>& tokens);

}  // namespace llama_rt
