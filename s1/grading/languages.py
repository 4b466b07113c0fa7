"""How an answer is announced in languages other than English, and where it ends."""

from __future__ import annotations

import re

_ANSWERS = (
    "réponse respuesta resposta risposta antwort lösung antwoord odpowiedź odpověď odpoveď odgovor răspuns(?:ul)? "
    "svar(?:et)? vastaus válasz cevap yanıt jawaban(?:nya)? ответ відповідь відповідь απάντηση"
).replace(" ", "|")
_IS = (
    "est es é è ist lautet war is to jest je este är er on adalah ialah является это є είναι vale são son sont"
).replace(" ", "|")
OPTION = "option|alternativa|opção|opción|opzione|letra|lettera|lettre|вариант|选项|選項|選択肢"
_CORRECT = r"(?:corre[ct]\w+|giusta|certa|juste|bonne|richtige|korrekte|правильный|верный)"
FOREIGN_CUE = re.compile(
    rf"\b(?:{_ANSWERS})\b(?:\s+\w+){{0,2}}?\*{{0,2}}(?:\s+(?:{_IS})\b\s*:?|\s*[:：]|\s+[-–—]\s)"
    r"|(?:đáp án|đáp số|câu trả lời|kết quả)(?:\s+\w+){0,2}?\s*(?:là|:)"
    r"|(?:答案|解答|正解|回答|答え)(?:应|應)?(?:选择|选|選|为|為|是|就是|は|[:：])\s*[:：]?|答\s*[:：]"
    r"|(?:故|应|因此|所以|正确的?)\s*(?:选项?|選項?)(?:择|是|为)?\s*[:：]?"
    r"|(?:정답|답|답안)\s*(?:은|는|[:：])|(?:الإجابة|الاجابة|الجواب|إجابة|جواب)(?:\s+\w+){0,2}?\s*(?:هي|هو|[:：])"
    rf"|\b(?:{_CORRECT}\s+(?:{OPTION})|(?:{OPTION})\s+{_CORRECT}|gabarito)\s*(?:(?:{_IS})\b|[:：])"
    r"|(?:उत्तर|जवाब)\s*(?:है|[:：])|คำตอบ(?:สุดท้าย|ที่ถูกต้อง)?\s*(?:คือ|[:：])"
    r"|(?:پاسخ|תשובה)(?:\s+\w+){0,2}?\s*(?:היא|[:：])",
    re.I,
)
FOREIGN_END = re.compile(
    r"[。；！？;!?\n，،।]|,\s+(?=[^\W\d_]{2,}|[\d+*×^() -]{1,40}=)|\.\s|,?\s+(?:car|parce|porque|"
    r"puisque|puesto|pois|já que|weil|denn|da|"
    r"perché|poiché|ya que|так как|потому|поскольку|оскільки|бо|bo|ponieważ|protože|want|omdat|vì|karena|çünkü|لأن|"
    r"क्योंकि|เพราะ)(?!\w)|\s*(?:因为|因為|왜냐하면|です|である|입니다|이다|이고|です)"
)
FOREIGN_LETTER = re.compile(r"[^\W\d_a-zA-Zα-ωΑ-Ω]")
"""Letters of words outside ASCII, such as the counting word of 12 apples in Chinese."""
