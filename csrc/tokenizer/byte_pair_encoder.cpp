#include "tokenizer/byte_pair_encoder.h"

#include <algorithm>
#include <bit>
#include <cstddef>
#include <utility>

#include "core/error.h"

namespace llama_rt {
namespace {

uint64_t pair_of(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

// Spreads pairs over the table (Fibonacci hashing); the high bits of the product are the mixed
// ones.
uint64_t mixed(uint64_t pair) {
  const uint64_t product = pair * 0x9E3779B97F4A7C15ull;
  return product ^ product >> 29;
}

std::unordered_map<std::string_view, int32_t> ids_of(std::string_view bytes,
                                                     const std::vector<std::string>& tokens) {
  std::unordered_map<std::string_view, int32_t> ids;
  ids.reserve(tokens.size());
  size_t at = 0;
  for (size_t id = 0; id < tokens.size(); ++id) {
    if (tokens[id].empty()) continue;
    ids.insert_or_assign(bytes.substr(at, tokens[id].size()), static_cast<int32_t>(id));
    at += tokens[id].size();
  }
  return ids;
}

std::string joined(const std::vector<std::string>& tokens) {
  std::string bytes;
  for (const std::string& token : tokens) bytes += token;
  return bytes;
}

}  // namespace

BytePairEncoder::BytePairEncoder(const std::vector<std::string>& tokens,
                                 std::span<const Merge> merges, bool whole_words)
    : bytes_(joined(tokens)), ids_(ids_of(bytes_, tokens)), whole_words_(whole_words) {
  for (int byte = 0; byte < 256; ++byte) {
    const char text = static_cast<char>(byte);
    const auto found = ids_.find(std::string_view(&text, 1));
    byte_ids_[byte] = found == ids_.end() ? -1 : found->second;
  }
  merges_.resize(std::bit_ceil(2 * merges.size() + 2));
  mask_ = merges_.size() - 1;
  for (const Merge& merge : merges) {
    for (const int32_t id : {merge.left, merge.right, merge.result}) {
      if (id < 0 || static_cast<size_t>(id) >= tokens.size()) {
        throw ConfigError("byte-pair encoder: a merge of rank " + std::to_string(merge.rank) +
                          " names token " + std::to_string(id) + ", expected an id in [0, " +
                          std::to_string(tokens.size()) + ")");
      }
    }
    add_merge(merge);
  }
}

// Of two merges of one pair the later one counts, as in the library that writes such files.
void BytePairEncoder::add_merge(const Merge& merge) {
  const uint64_t pair = pair_of(merge.left, merge.right);
  uint64_t at = mixed(pair) & mask_;
  while (merges_[at].pair != kNoPair && merges_[at].pair != pair) at = (at + 1) & mask_;
  merges_[at] = {pair, merge.rank, merge.result};
}

const BytePairEncoder::Slot* BytePairEncoder::find(int32_t left, int32_t right) const {
  const uint64_t pair = pair_of(left, right);
  for (uint64_t at = mixed(pair) & mask_;; at = (at + 1) & mask_) {
    if (merges_[at].pair == pair) return &merges_[at];
    if (merges_[at].pair == kNoPair) return nullptr;
  }
}

void BytePairEncoder::encode(std::span<const std::string_view> words,
                             std::vector<int32_t>& ids) const {
  // Words repeat within a text: where their ids stand already, they are copied.
  std::unordered_map<std::string_view, std::pair<size_t, size_t>> seen;
  Scratch scratch;
  for (const std::string_view word : words) {
    if (word.empty()) continue;
    if (word.size() == 1) {
      const int32_t id = byte_ids_[static_cast<unsigned char>(word[0])];
      if (id >= 0) ids.push_back(id);
      continue;
    }
    if (whole_words_) {
      const auto token = ids_.find(word);
      if (token != ids_.end()) {
        ids.push_back(token->second);
        continue;
      }
    }
    const auto [entry, is_new] = seen.try_emplace(word, ids.size(), 0);
    auto& [start, count] = entry->second;
    if (is_new) {
      encode_word(word, scratch, ids);
      count = ids.size() - start;
    } else {
      const size_t needed = ids.size() + count;  // the source must not move while it is copied
      if (needed > ids.capacity()) ids.reserve(std::max(needed, 2 * ids.capacity()));
      std::copy_n(ids.begin() + static_cast<std::ptrdiff_t>(start), count, std::back_inserter(ids));
    }
  }
}

bool BytePairEncoder::is_later(const Candidate& a, const Candidate& b) {
  return a.rank != b.rank ? a.rank > b.rank : a.position > b.position;
}

void BytePairEncoder::push_candidate(int32_t position, Scratch& scratch) const {
  const Symbol& symbol = scratch.symbols[static_cast<size_t>(position)];
  if (symbol.next < 0) return;
  const Slot* slot = find(symbol.id, scratch.symbols[static_cast<size_t>(symbol.next)].id);
  if (slot == nullptr) return;
  scratch.heap.push_back({slot->rank, position, slot->result});
  std::push_heap(scratch.heap.begin(), scratch.heap.end(), is_later);
}

void BytePairEncoder::encode_word(std::string_view word, Scratch& scratch,
                                  std::vector<int32_t>& ids) const {
  auto& [symbols, heap] = scratch;
  symbols.clear();
  heap.clear();
  for (const char byte : word) {
    const int32_t id = byte_ids_[static_cast<unsigned char>(byte)];
    if (id < 0) continue;
    const auto position = static_cast<int32_t>(symbols.size());
    symbols.push_back({id, position - 1, position + 1});
  }
  if (symbols.empty()) return;
  symbols.back().next = -1;
  for (size_t i = 0; i + 1 < symbols.size(); ++i) push_candidate(static_cast<int32_t>(i), scratch);
  while (!heap.empty()) {
    const Candidate best = heap.front();
    std::pop_heap(heap.begin(), heap.end(), is_later);
    heap.pop_back();
    Symbol& left = symbols[static_cast<size_t>(best.position)];
    if (left.id < 0 || left.next < 0) continue;
    Symbol& right = symbols[static_cast<size_t>(left.next)];
    const Slot* slot = find(left.id, right.id);
    if (slot == nullptr || slot->rank != best.rank) continue;  // one of the two has changed
    left.id = best.result;
    left.next = right.next;
    right.id = -1;
    if (left.next >= 0) symbols[static_cast<size_t>(left.next)].previous = best.position;
    if (left.previous >= 0) push_candidate(left.previous, scratch);
    push_candidate(best.position, scratch);
  }
  for (const Symbol& symbol : symbols) {
    if (symbol.id >= 0) ids.push_back(symbol.id);
  }
}

std::vector<Merge> merges_of_ranks(const std::vector<std::string>& tokens) {
  const std::string bytes = joined(tokens);
  const auto ids = ids_of(bytes, tokens);
  std::vector<Merge> merges;
  for (const auto& [token, id] : ids) {
    for (size_t cut = 1; cut < token.size(); ++cut) {
      const auto left = ids.find(token.substr(0, cut));
      if (left == ids.end()) continue;
      const auto right = ids.find(token.substr(cut));
      if (right != ids.end()) merges.push_back({left->second, right->second, id, id});
    }
  }
  return merges;
}

}  // namespace llama_rt
